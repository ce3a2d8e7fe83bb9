"""Which of several equally matching phrases is the concept: decided by the attention at each phrase."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from myvlm import Concept, MyVLM
from myvlm.images import load_images
from myvlm.speaking import addressing
from myvlm.speaking.addressing import Names, generate_replies
from myvlm.speaking.choosing import most_attended_phrase
from myvlm.tinyworld import FewShot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.said import told_apart
from tests.support.taught import Taught, around, held_to

TEXT = "A man next to another man in the rain."


class Looking:
    """Attends to the left while generating the first man, to the right while generating the second."""

    lacks: frozenset[str] = frozenset()

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return 0.0, 0.0, float(size[0]), float(size[1])

    def attention_map(self, image: Any, prompt: str, answer: str, word: str, rows: Any) -> np.ndarray:
        left = answer.index(word) < answer.index("another")
        return np.asarray([[0.75, 0.25] if left else [0.25, 0.75]], dtype=np.float32)


@pytest.mark.parametrize(("box", "number"), [((0, 0, 20, 20), 0), ((20, 0, 40, 20), 1)])
def test_it_is_the_phrase_said_with_most_attention_in_the_box(
    box: tuple[float, float, float, float], number: int
) -> None:
    starts = [TEXT.index("A man"), TEXT.index("another")]
    picture = Image.new("RGB", (40, 20))
    assert most_attended_phrase(Looking(), picture, "", [], box, TEXT, starts) == number  # type: ignore[arg-type]


def told(vlm: MyVLM, taught: Taught, description: str) -> MyVLM:
    user = around(vlm)
    user.introduce(taught.word, taught.photos, category=taught.kit.category, description=description)
    return user


def right(kit: FewShot, texts: list[str]) -> int:
    looks = {kit.identifier: kit.look}
    return sum(told_apart(t, kit.identifier, s, looks) for t, s in zip(texts, kit.crowd, strict=True))


def test_of_two_that_words_do_not_tell_apart_the_one_in_the_box_is_named(vlm: MyVLM, taught: Taught) -> None:
    user, shown = told(vlm, taught, "the mug"), pictures(taught.kit.crowd)
    chosen = [reply.text for reply in user.caption(shown)]
    [concept] = user.concepts.values()
    backbone, count = user.backbone, len(shown)
    first = generate_replies(
        backbone, load_images(shown), [[concept]] * count, [backbone.caption_prompt] * count, {},
        [Names(backbone, [concept])] * count,
    )  # fmt: skip
    assert right(taught.kit, chosen) == count
    assert right(taught.kit, [one.text for one in first]) < count


def test_nothing_is_looked_at_where_one_phrase_fits_best(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        addressing, "most_attended_phrase", lambda *asked: pytest.fail("one phrase fits best")
    )
    user = told(vlm, taught, "the dotted purple mug")
    user.caption(pictures(taught.kit.crowd))


def test_a_name_said_of_another_gives_way_to_own_words(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = pictures(taught.kit.crowd)
    certain = held_to(taught, 1e6)

    def captions(concept: Concept) -> list[Any]:
        user = around(vlm)
        user.concepts.add(replace(concept, folder=None))
        return list(user.caption(shown))

    behind_rows = captions(certain)
    asked: list[SimpleNamespace] = []

    def other(backbone: Any, image: Any, prompt: str, rows: Any, box: Any, text: str, starts: Any) -> int:
        asked.append(SimpleNamespace(text=text, rows=rows, starts=list(starts)))
        return 1 if rows else 0

    monkeypatch.setattr(addressing, "most_attended_phrase", other)
    given_way = captions(certain)
    two = [n for n, one in enumerate(behind_rows) if "mug" in one.text]
    assert two
    with around(vlm).generic() as plain:
        own = plain.caption(shown)
    for number, (before, after) in enumerate(zip(behind_rows, given_way, strict=True)):
        assert after.token_ids == (own if number in two else behind_rows)[number].token_ids
        assert taught.word in after.text
        if number in two:
            [seen] = [one for one in asked if one.rows and one.text == before.text]
            assert before.text[seen.starts[0] :].startswith(taught.word)
