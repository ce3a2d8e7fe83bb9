"""What one job found, as plain values that are kept on disk."""

from __future__ import annotations

from pathlib import Path

from myvlm.boxes import Box
from myvlm.evaluation.data.dataset import Frozen


class PictureReply(Frozen):
    """What was said of one picture.

    Attributes:
        file: the picture.
        text: the caption.
        seen: whether the head counts the subject as seen; None for a method without a head.
        box: where the subject was located, if it was.
    """

    file: Path
    text: str
    seen: bool | None = None
    box: Box | None = None


class Answered(Frozen):
    """A question about one picture, what was answered and what is true."""

    file: Path
    question: str
    answer: str
    truth: str


class MarkedPicture(Frozen):
    """A picture for the report: marked with the head's box, and with the attention of the name.

    Attributes:
        picture, overlay: file names in the folder of pictures; no overlay where the subject was not seen.
        wanted: whether the subject is in it, and so its name should be said.
        text: what was said, and `plain` what the plain model says.
    """

    picture: str
    overlay: str | None
    wanted: bool
    text: str
    plain: str


class JobOutcome(Frozen):
    """All that one job found.

    Attributes:
        taught: the training photos.
        taught_captions: the data set's captions of them, also where the model was to write its own.
        present: of each validation photo what was said.
        absent: the same of pictures without the subject.
        answered: questions about validation photos.
        plain_before: plain captions of some pictures before the subject was taught, `plain_after` the same
            afterwards: any difference is forgetting.
        clip_scores: by validation photo.
        similarities: of sentences, for each validation photo with captions of its own.
        learn_seconds: to teach, head included; near zero where another method's lesson was shared.
        calls_per_second: pictures captioned in a second, head included.
        memory_mib: the peak, of the GPU or of the process.
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
    memory_mib: float = 0.0
    shown: tuple[MarkedPicture, ...] = ()
