"""Results of one evaluation job, as plain values that are stored on disk."""

from __future__ import annotations

from pathlib import Path

from myvlm.boxes import Box
from myvlm.evaluation.data.dataset import ImmutableRecord


class PictureReply(ImmutableRecord):
    """The caption of one picture.

    Attributes:
        file: the picture file.
        text: the caption.
        seen: whether the head detected the subject; None for a method without a head.
        box: where the subject was located, if it was.
    """

    file: Path
    text: str
    seen: bool | None = None
    box: Box | None = None


class Answered(ImmutableRecord):
    """A question about one picture, with the model's answer and the correct one."""

    file: Path
    question: str
    answer: str
    truth: str


class MarkedPicture(ImmutableRecord):
    """A picture for the report: with the head's box, and with an overlay of the attention map of the name.

    Attributes:
        picture, overlay: file names in the folder of pictures; `overlay` is None if the subject was not
            detected or its name not generated.
        wanted: whether the picture shows the subject, so that the caption should contain its name.
        text: the method's caption.
        plain: the plain model's caption.
    """

    picture: str
    overlay: str | None
    wanted: bool
    text: str
    plain: str


class JobOutcome(ImmutableRecord):
    """Everything that one job measured.

    Attributes:
        taught: the training photos.
        taught_captions: the data set's captions of these, even if the model wrote its own for training.
        present: captions of the validation photos, which show the subject.
        absent: captions of pictures without the subject.
        answered: questions about validation photos.
        plain_before: the plain model's captions of some pictures before the subject was learned.
        plain_after: the same after it; any difference is forgetting.
        clip_scores: CLIPScore of each validation photo's caption.
        similarities: sentence similarity of the caption of each validation photo that has references.
        learn_seconds: time to learn, head included; near zero if another method learned the concept before.
        calls_per_second: captions generated per second, head included.
        memory_mib: peak memory, of the GPU or else of the process; None if unknown.
        shown: pictures for the report.
    """

    taught: tuple[Path, ...]
    taught_captions: tuple[str, ...]
    present: tuple[PictureReply, ...]
    absent: tuple[PictureReply, ...]
    answered: tuple[Answered, ...] = ()
    plain_before: tuple[str, ...] = ()
    plain_after: tuple[str, ...] = ()
    clip_scores: tuple[float, ...] = ()
    similarities: tuple[float, ...] = ()
    learn_seconds: float = 0.0
    calls_per_second: float = 0.0
    memory_mib: float | None = None
    shown: tuple[MarkedPicture, ...] = ()
