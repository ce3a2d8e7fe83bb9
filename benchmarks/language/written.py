"""A tinyworld user who writes natural sentences, for a language model that was trained on them."""

from __future__ import annotations

from dataclasses import fields

from myvlm.tinyworld import FewShot
from myvlm.tinyworld.smollm2.english import as_sentence


class Written(FewShot):
    """The same user, with captions and question/answer pairs in natural English."""

    def captions(self, count: int | None = None) -> list[list[str]]:
        return [[as_sentence(text) for text in own] for own in super().captions(count)]

    def questions(self, count: int | None = None) -> list[list[tuple[str, str]]]:
        return [[(as_sentence(q), as_sentence(a)) for q, a in own] for own in super().questions(count)]


def written(kit: FewShot) -> FewShot:
    """The user with natural sentences.

    >>> from myvlm.tinyworld import few_shot
    >>> written(few_shot(0)).captions(1)[0][0][-1], written(few_shot(0)).questions(1)[0][0][0]
    ('.', 'What colour is ulmo?')
    """
    return Written(**{field.name: getattr(kit, field.name) for field in fields(kit)})
