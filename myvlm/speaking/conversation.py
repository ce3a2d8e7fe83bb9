"""A conversation about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.heads.detections import Detections
from myvlm.images import LoadedImage
from myvlm.results import Reply
from myvlm.speaking.addressing import Names, speak
from myvlm.text import check_written


class Conversation:
    """A conversation about one picture: each question is asked behind all that was said before.

    The picture is looked at once for concepts, when the conversation begins. What is said before goes into
    the prompt by the model's own chat template; the model reads all of it, picture included, at every turn.

    Args:
        backbone: speaks.
        photo: what it is about.
        detections: one for each concept of the library.
        concepts: those that are seen.
        names: of all that the user has.

    >>> from myvlm import MyVLM
    >>> from myvlm.tinyworld import sample_picture
    >>> chat = MyVLM.from_pretrained("tinyworld/llava").chat(sample_picture(seed=3))
    >>> first, second = chat.ask("What is in the picture?"), chat.ask("What do you see?")
    >>> len(chat.turns)
    4
    """

    def __init__(
        self, backbone: Backbone, photo: LoadedImage, detections: Detections, concepts: Sequence[Concept],
        names: Names,
    ) -> None:  # fmt: skip
        self.detections = detections
        self.turns: tuple[str, ...] = ()
        self._backbone, self._photo, self._concepts, self._names = backbone, photo, list(concepts), names

    def __repr__(self) -> str:
        return f"Conversation({self._photo.name!r}, {len(self.turns) // 2} questions asked)"

    def ask(self, question: str, **generation: Any) -> Reply:
        """The reply to a question; both become part of what later questions are asked behind.

        Args:
            question: concepts go by their identifiers.
            generation: of transformers' `generate`; see `MyVLM.caption`.

        Raises:
            InputError: the question or an option cannot be used; the conversation is as it was.
            BackboneError: a second question to a family whose prompt has no place for what was said.
        """
        turns = *self.turns, check_written(question, "question")
        [spoken] = speak(self._backbone, [self._photo], [self._concepts], [turns], generation, [self._names])
        self.turns = (*turns, spoken.text)
        return Reply(spoken.text, self.detections, self._photo.image, spoken.token_ids, absent=spoken.absent)
