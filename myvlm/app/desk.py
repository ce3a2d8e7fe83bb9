"""The actions of the page, independent of gradio: teach, look, ask, correct, rename, remove."""

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
"""Largest number of pictures per request."""


class ConceptStorage(Protocol):
    """Storage of the page's concepts on disk."""

    def check(self, identifier: str, category: str) -> None:
        """Raise, before anything is learned, if a concept with this identifier cannot be saved."""

    def save(self, concept: Concept) -> None:
        """Save a concept that is new or has changed."""

    def put_aside(self, identifier: str) -> str:
        """Move a concept out of the folder; return a message that says where it is."""

    def erase(self, identifier: str) -> None:
        """Delete a concept for good."""


@dataclass(frozen=True, eq=False)
class PictureReplies:
    """The replies about one picture, with the concepts and without.

    Attributes:
        name: name of the picture's file.
        plain: reply of the frozen model; None if the picture cannot be read.
        personal: reply with the concepts; None if the picture cannot be read.
        attention: attention maps of the detected concepts.
        fault: why the picture cannot be used; empty if it can.
    """

    name: str
    plain: Reply | None = None
    personal: Reply | None = None
    attention: tuple[AttentionMap, ...] = ()
    fault: str = ""


class Desk:
    """A model, its concepts and their storage; shared by all open pages.

    Not thread-safe except for `stop`: the page queues all calls that use the model.

    Args:
        vlm: the model, with the stored concepts loaded.
        storage: the storage of the concepts.
    """

    def __init__(self, vlm: MyVLM, storage: ConceptStorage) -> None:
        self.vlm = vlm
        self.storage = storage
        self._stop = threading.Event()

    @property
    def names(self) -> list[str]:
        """Identifiers of the concepts, in the order in which they were added."""
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
        """Learn a concept from photos and save it; if saving fails, the concept is removed again.

        Args:
            captions: one line per photo; if empty, the model writes them.
            kind: kind of the head, such as `object` or `face`; by default `face` if the category is a person,
                else `object`.
            show: called with the progress.

        Raises: as `MyVLM.learn`.
        """
        self._stop.clear()
        identifier, category = identifier.strip(), category.strip()
        lines = [line.strip() for line in captions.splitlines() if line.strip()]
        self.storage.check(identifier, category)

        def on_progress(state: LearningProgress) -> None:
            show(state)
            if self._stop.is_set() and state.step and state.ended is None:
                raise KeyboardInterrupt

        concept = self.vlm.learn(
            identifier,
            list(photos),
            category=category,
            captions=lines or None,
            kind=kind or ("face" if category and is_person(category) else "object"),
            progress=on_progress,
        )
        try:
            self.storage.save(concept)
        except MyVLMError:
            self.vlm.concepts.remove(identifier)
            raise
        return concept

    def stop(self) -> None:
        """Stop the learning in progress and keep the best embedding so far."""
        self._stop.set()

    def look(
        self, files: Sequence[str | Path], question: str = "", *, attention: bool = False
    ) -> list[PictureReplies]:
        """Caption pictures, or answer a question about them, with the concepts and without.

        Args:
            question: the question; if empty, the pictures are captioned.
            attention: also compute the attention map of each detected concept.

        Raises:
            InputError: there are more than `MOST_PICTURES` pictures.
        """
        if len(files) > MOST_PICTURES:
            raise InputError(
                "Too many pictures at once.",
                got=f"{len(files)} pictures",
                expected=f"at most {MOST_PICTURES}",
                fix="drop fewer, or run `myvlm caption FOLDER` for an album",
            )
        return [self._look(Path(file), question.strip(), attention) for file in files]

    def _look(self, file: Path, question: str, attention: bool) -> PictureReplies:
        try:
            [photo] = load_images(file)
            with self.vlm.generic() as plain:
                before = self._reply(plain, photo, question)
            after = self._reply(self.vlm, photo, question)
            maps = [self.vlm.attention(photo, name) for name in after.seen] if attention else []
        except MyVLMError as error:
            fix = f" {error.fix[:1].upper()}{error.fix[1:]}." if error.fix else ""
            return PictureReplies(file.name, fault=f"{error.what}{fix}".replace(str(file), file.name))
        return PictureReplies(file.name, before, after, tuple(maps))

    def _reply(self, vlm: MyVLM, photo: LoadedImage, question: str) -> Reply:
        [reply] = vlm.ask([photo], question) if question else vlm.caption([photo])
        return reply

    def correct(
        self, file: str | Path, identifier: str, *, present: bool, box: Box | None = None
    ) -> Correction:
        """Correct whether a picture shows a concept: update the concept's head and save the concept.

        Args:
            box: left, top, right, bottom of the part of the picture that is meant, in pixels.

        Raises: as `MyVLM.correct`.
        """
        [photo] = load_images(file)
        named = LoadedImage(photo.image, Path(file).name)  # files must not hold the temporary path
        correction = self.vlm.correct(named, identifier, present=present, box=box)
        try:
            self.storage.save(self.vlm.concepts[identifier])
        except MyVLMError:
            correction.undo()
            raise
        return correction

    def undo(self, correction: Correction) -> Correction:
        """Undo a correction, in memory and on disk."""
        undone = correction.undo()
        self.storage.save(self.vlm.concepts[correction.identifier])
        return undone

    def rename(self, old: str, new: str) -> None:
        """Change a concept's identifier, in memory and on disk."""
        concept = self.vlm.concepts.rename(old, new.strip())
        try:
            self.storage.save(concept)
        except MyVLMError:
            self.vlm.concepts.rename(concept.identifier, old)
            raise

    def remove(self, identifier: str, *, erase: bool) -> str:
        """Remove a concept, and delete its files or put them aside; return a message about it."""
        concept = self.vlm.concepts[identifier]
        if erase:
            self.storage.erase(identifier)
            message = f"{identifier} was erased."
        else:
            message = self.storage.put_aside(identifier)
        self.vlm.concepts.remove(identifier)
        concept.thumbnails = []
        return message
