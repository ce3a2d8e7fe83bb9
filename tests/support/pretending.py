"""A fake frozen model and fake methods, to test the evaluation protocol quickly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from myvlm.evaluation.data.dataset import Photo, Question, Subject


class PretendVLM:
    """A frozen model that gives every picture the same caption."""

    def __init__(self) -> None:
        self.backbone = SimpleNamespace(name="pretend", family="llava", device="cpu")
        self.drift = False

    @contextmanager
    def generic(self) -> Iterator[None]:
        yield

    def caption(self, images: Sequence[Any]) -> list[Any]:
        return [SimpleNamespace(text=f"a thing{', changed' * self.drift}") for _ in images]


class Pretending:
    """A method that names the subject in its own pictures and records its arguments."""

    def __init__(self, name: str, setting: Any) -> None:
        self.name, self.setting = name, setting

    def teach(self, vlm: Any, subject: Subject, photos: Sequence[Photo], *, seed: int) -> Any:
        TAUGHT.append((self, subject, tuple(photos), seed))
        if subject.identifier in FAILS:
            raise KeyboardInterrupt
        vlm.drift = self.name == "forgetful"
        return Says(subject.identifier if self.name == "myvlm" else "a thing")


class Says:
    def __init__(self, word: str) -> None:
        self.word = word

    def caption(self, images: Sequence[Path]) -> list[str]:
        own = {"sks": "mug", "ohwx": "dog"}.get(self.word)
        return [f"{self.word} on grass" if file.parent.name == own else "grass" for file in images]

    def ask(self, images: Sequence[Path], question: str) -> list[str]:
        return ["A" if "A. " in question else "red" for _ in images]


TAUGHT: list[tuple[Pretending, Subject, tuple[Photo, ...], int]] = []
FAILS: set[str] = set()


def subject(root: Path, category: str, identifier: str, **more: Any) -> Subject:
    asked = (
        Question(question=f"What colour is {identifier}?", answer="red"),
        Question(question=f"Is {identifier} big?", answer="no", options=("yes", "no")),
    )
    photos = []
    for number in range(6):
        file = root / category / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file)
        photos.append(
            Photo(file=file, captions=(f"{identifier} on grass", f"a {identifier}"), questions=asked)
        )
    return Subject(identifier=identifier, category=category, photos=tuple(photos), **more)
