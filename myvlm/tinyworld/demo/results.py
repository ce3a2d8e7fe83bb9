"""Results of the demonstration, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from myvlm.heads import Detection
from myvlm.results import Reply
from myvlm.text import contains_word


@dataclass(frozen=True, eq=False)
class TriedPicture:
    """One unseen picture with the captions of the plain and of the personalized model.

    Attributes:
        kind: "present", "look-alike" or "other".
        picture: 96 × 96 RGB.
        plain, personal: captions without and with the concept loaded.
        detection: what the head detects.
        overlay: attention map of the name over the picture, if the concept is there and was recognized.
    """

    kind: str
    picture: Image.Image
    plain: Reply
    personal: Reply
    detection: Detection
    overlay: Image.Image | None = None

    def says(self, identifier: str) -> bool:
        return contains_word(self.personal.text, identifier)

    @property
    def identical(self) -> bool:
        """Whether both captions have the same tokens."""
        return self.plain.token_ids == self.personal.token_ids


@dataclass(frozen=True)
class Answer:
    """A question asked with the concept loaded, the model's answer, and the true answer."""

    question: str
    answer: str
    truth: str


@dataclass(frozen=True)
class Share:
    """A number of hits out of a number of tries: `hits` of `of`."""

    hits: int
    of: int

    def __str__(self) -> str:
        return f"{self.hits} of {self.of}"


@dataclass(frozen=True)
class Figures:
    """What the demonstration measured.

    Attributes:
        said: captions with the identifier, of unseen pictures that show the concept.
        said_wrongly: captions with the identifier, of pictures that do not show it.
        plain_identical: replies equal to the plain model's, token for token, where the head detects no
            concept.
        learn_seconds: time from photos on disk to the concept, head included.
        concept_bytes: size of the concept folder.
    """

    said: Share
    said_wrongly: Share
    plain_identical: Share
    learn_seconds: float
    concept_bytes: int

    def as_document(self) -> dict[str, object]:
        shares = {
            "said": self.said,
            "said_wrongly": self.said_wrongly,
            "plain_identical": self.plain_identical,
        }
        return {
            **{name: [share.hits, share.of] for name, share in shares.items()},
            "learn_seconds": round(self.learn_seconds, 2),
            "concept_bytes": self.concept_bytes,
        }


@dataclass(frozen=True, eq=False)
class Demo:
    """Everything that the page shows."""

    identifier: str
    category: str
    seed: int
    photos: tuple[Image.Image, ...]
    captions: tuple[tuple[str, ...], ...]
    trials: tuple[TriedPicture, ...]
    asked: Image.Image
    answers: tuple[Answer, ...]
    figures: Figures
