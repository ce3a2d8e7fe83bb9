"""What the page does, without the page: teach, look, ask, rename, remove; concepts live in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from myvlm.api import MyVLM
from myvlm.boxes import Box
from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import Correction
from myvlm.errors import InputError, MyVLMError
from myvlm.images import LoadedImage, load_images
from myvlm.learning.captions import is_person
from myvlm.learning.progress import LearningProgress
from myvlm.results import AttentionMap, Reply

MOST_PICTURES = 24
"""Pictures that are looked at together."""


class Shelf(Protocol):
    """Where concepts are kept on disk."""

    def check(self, identifier: str, category: str) -> None:
        """Raise, before anything is learned, if a concept of that name cannot be kept."""

    def keep(self, concept: Concept) -> None:
        """Write a concept that is new, or that has changed."""

    def put_aside(self, identifier: str) -> str:
        """Take a concept out of the folder; what to say of where it is."""

    def erase(self, identifier: str) -> None:
        """Delete a concept for good."""


@dataclass(frozen=True, eq=False)
class Sighting:
    """What there is to say of one picture.

    Attributes:
        name: of its file.
        plain: by the frozen model; None where the picture cannot be read.
        personal: with the concepts.
        attention: of each concept that was seen, where it looks.
        fault: why the picture cannot be used; empty where it can.
    """

    name: str
    plain: Reply | None = None
    personal: Reply | None = None
    attention: tuple[AttentionMap, ...] = ()
    fault: str = ""


class Desk:
    """A model, its concepts and the folder that they are kept in; shared by all open pages.

    Args:
        vlm: speaks, with the concepts of the folder.
        shelf: keeps them.

    One call at a time: the page queues them.
    """

    def __init__(self, vlm: MyVLM, shelf: Shelf) -> None:
        self.vlm = vlm
        self.shelf = shelf
        self._stop = threading.Event()

    @property
    def names(self) -> list[str]:
        """Identifiers of the concepts, in the order in which they came."""
        return list(self.vlm.concepts)

    def teach(
        self,
        identifier: str,
        photos: Sequence[str | Path],
        *,
        category: str,
        captions: str = "",
        kind: str | None = None,
        show: Callable[[LearningProgress], None] = lambda state: None,
    ) -> Concept:
        """Learn a concept from photos and keep it; all of it or nothing.

        Args:
            captions: a line a photo; none, and the model writes them.
            kind: of its head, such as `object` or `face`; by what it is where not given: a person's category
                is known by the face.
            show: told how far it is.

        Raises: as `MyVLM.learn`.
        """
        self._stop.clear()
        identifier, category = identifier.strip(), category.strip()
        lines = [line.strip() for line in captions.splitlines() if line.strip()]
        self.shelf.check(identifier, category)

        def told(state: LearningProgress) -> None:
            show(state)
            if self._stop.is_set() and state.step and state.ended is None:
                raise KeyboardInterrupt

        concept = self.vlm.learn(
            identifier,
            list(photos),
            category=category,
            captions=lines or None,
            kind=kind or ("face" if category and is_person(category) else "object"),
            progress=told,
        )
        try:
            self.shelf.keep(concept)
        except MyVLMError:
            self.vlm.concepts.remove(identifier)
            raise
        return concept

    def stop(self) -> None:
        """End the learning that is under way, with the best embedding so far."""
        self._stop.set()

    def look(
        self, files: Sequence[str | Path], question: str = "", *, attention: bool = False
    ) -> list[Sighting]:
        """Describe pictures, or answer a question about them, with the concepts and without.

        Args:
            question: a caption where it is empty.
            attention: also where each concept that was seen looks.
        """
        if len(files) > MOST_PICTURES:
            raise InputError(
                "These are too many pictures for one page.",
                got=f"{len(files)} pictures",
                expected=f"at most {MOST_PICTURES}",
                fix="drop fewer, or use `myvlm caption FOLDER` for an album",
            )
        return [self._look(Path(file), question.strip(), attention) for file in files]

    def _look(self, file: Path, question: str, attention: bool) -> Sighting:
        try:
            [photo] = load_images(file)
            with self.vlm.generic() as plain:
                before = self._say(plain, photo, question)
            after = self._say(self.vlm, photo, question)
            maps = [self.vlm.attention(photo, name) for name in after.seen] if attention else []
        except MyVLMError as error:
            fix = f" {error.fix[:1].upper()}{error.fix[1:]}." if error.fix else ""
            return Sighting(file.name, fault=f"{error.what}{fix}".replace(str(file), file.name))
        return Sighting(file.name, before, after, tuple(maps))

    def _say(self, vlm: MyVLM, photo: LoadedImage, question: str) -> Reply:
        [reply] = vlm.ask([photo], question) if question else vlm.caption([photo])
        return reply

    def correct(
        self, file: str | Path, identifier: str, *, present: bool, box: Box | None = None
    ) -> Correction:
        """Say of a picture whether it shows a concept: its head learns that at once, and its folder knows.

        Args:
            box: left, top, right, bottom of the part that is meant, in pixels of the picture.

        Raises: as `MyVLM.correct`.
        """
        [photo] = load_images(file)
        named = LoadedImage(photo.image, Path(file).name)  # where it was dropped is of no use in the file
        correction = self.vlm.correct(named, identifier, present=present, box=box)
        try:
            self.shelf.keep(self.vlm.concepts[identifier])
        except MyVLMError:
            correction.undo()
            raise
        return correction

    def undo(self, correction: Correction) -> Correction:
        """Take a correction back, here and on disk."""
        undone = correction.undo()
        self.shelf.keep(self.vlm.concepts[correction.identifier])
        return undone

    def rename(self, old: str, new: str) -> None:
        """Call a concept by another word, here and on disk."""
        concept = self.vlm.concepts.rename(old, new.strip())
        try:
            self.shelf.keep(concept)
        except MyVLMError:
            self.vlm.concepts.rename(concept.identifier, old)
            raise

    def remove(self, identifier: str, *, erase: bool) -> str:
        """Take a concept out, and delete what is on disk or put it aside; what to say of it."""
        concept = self.vlm.concepts[identifier]
        if erase:
            self.shelf.erase(identifier)
            told = f"{identifier} is erased."
        else:
            told = self.shelf.put_aside(identifier)
        self.vlm.concepts.remove(identifier)
        concept.thumbnails = []
        return told
