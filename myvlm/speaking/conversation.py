"""A conversation about one picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from myvlm.backbones import Backbone
from myvlm.concepts.concept import Concept
from myvlm.heads.detections import Detections
from myvlm.images import LoadedImage
from myvlm.results import Reply
from myvlm.speaking.addressing import Names, generate_replies
from myvlm.text import check_written


class Conversation:
    """A conversation about one picture: the prompt of each question holds all earlier turns.

    Concepts are detected once, when the conversation begins. Earlier turns go through the model's own chat
    template; the model reads all of them, and the picture, again at every turn.

    Args:
        backbone: the model that replies.
        photo: the picture.
        detections: one for each concept of the library.
        concepts: those that are detected.
        names: of all concepts of the user.

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
        """Answer a question; question and reply are added to the conversation.

        Args:
            question: may name concepts by their identifiers.
            generation: options of transformers' `generate`; see `MyVLM.caption`.

        Raises:
            InputError: the question or an option cannot be used, or the family's prompt has no place for
                earlier turns; the conversation is unchanged.
        """
        turns = *self.turns, check_written(question, "question")
        [spoken] = generate_replies(
            self._backbone, [self._photo], [self._concepts], [turns], generation, [self._names]
        )
        self.turns = (*turns, spoken.text)
        return Reply(spoken.text, self.detections, self._photo.image, spoken.token_ids, absent=spoken.absent)
