"""`ConceptLibrary`: concepts loaded together and detected in one pass over each picture.

Every change is validated completely before anything is modified.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self
from weakref import ref

from myvlm.boxes import Box
from myvlm.concepts.concept import Concept, libraries_holding, live_libraries
from myvlm.concepts.confusable import POSSIBLY_DETECTED, ConfusablePair, confusable, separate
from myvlm.concepts.correcting import Correction, correct
from myvlm.concepts.folders import erase_from_disk, load_folders, save_folders
from myvlm.concepts.gates import FALSE_NAMES_PER_1000, Gates, check_false_names, with_entry_replaced
from myvlm.concepts.notebook import library_html, library_text
from myvlm.concepts.refusals import unknown_identifier, word_taken, word_twice
from myvlm.errors import check_is
from myvlm.heads import Gate, Head
from myvlm.heads.detections import Detections, merge
from myvlm.images import ImageSource, ImageSources, load_image, load_images
from myvlm.runtime.process import ForkSafeLock
from myvlm.text import caution, check_identifier, composed, fold, folded

_log = logging.getLogger(__name__)

_library_lock = ForkSafeLock()
"""Held while any library is read or changed: one lock for all, since a concept may be in several of them."""


class ConceptLibrary(Mapping[str, Concept]):
    """A mapping from identifier to concept, in insertion order. It holds the objects added, not copies.

    A concept has two words: its identifier, and the word that models learned to generate (`spoken`). They
    differ after a rename. No two concepts may share a word, ignoring case: a text would be ambiguous.

    Args:
        concepts: initial concepts or concept folders.
        device: where the encoders of concepts loaded from folders run.
        false_names_per_1000: see the property.

    >>> library = ConceptLibrary()
    >>> len(library), "sks" in library
    (0, False)
    """

    def __init__(
        self,
        concepts: Iterable[Concept | str | PathLike[str]] = (),
        *,
        device: str = "cpu",
        false_names_per_1000: float | None = FALSE_NAMES_PER_1000,
    ) -> None:
        self.device = device
        self.state: object = None  # a new object after each change of concepts or identifiers
        self._listeners: list[tuple[Callable[..., None], ref[Any] | None]] = []
        self._concepts: dict[str, Concept] = {}
        self._identifier_by_word: dict[str, str] = {}  # case-folded word → identifier of its concept
        self._gates = Gates(check_false_names(false_names_per_1000))
        live_libraries[id(self)] = self
        self.add_all(concepts)

    @classmethod
    def load(cls, folder: str | PathLike[str], *, device: str = "cpu") -> Self:
        """Load all concept folders in a folder, sorted by name; hidden ones are skipped.

        Heads are read and checked now, each embedding on first use: thousands load in seconds.

        Args:
            folder: a folder of concept folders; or an address (see `Concept.save`), read completely now.
            device: where the encoders will run.

        Raises:
            MissingFileError: there is no such folder.
            InputError: it is a concept folder itself.
            ConceptExistsError, ConceptFileError, UnknownHeadError: see `add_all`.
        """
        return cls(load_folders(folder, device=device), device=device)

    def save(self, folder: str | PathLike[str], *, face_consent: bool = False) -> None:
        """Save each concept as a subfolder of a folder, or at an address; other content there stays.

        A concept already there is replaced. On the hub everything is one commit; elsewhere each concept is
        written completely or left unchanged. For `face_consent` and exceptions see `Concept.save`.
        """
        save_folders(self.values(), folder, face_consent=face_consent)

    def on_add(self, callback: Callable[..., None], *, of: object = None) -> None:
        """Call `callback(concepts)` now with all concepts, and later with those that are added.

        There may be several callbacks. With `of`, it is called as `callback(of, concepts)` for as long as
        `of` is referenced elsewhere; the library holds only a weak reference, so it keeps no model in memory.
        """
        callback(self.values()) if of is None else callback(of, self.values())
        listener = callback, None if of is None else ref(of)
        if listener not in self._listeners:  # a model may be given the library again and again
            self._listeners.append(listener)

    def _call_back(self, concepts: Sequence[Concept]) -> None:
        for listener in list(self._listeners):
            callback, of = listener
            if of is None:
                callback(concepts)
            elif (referent := of()) is not None:
                callback(referent, concepts)
            else:
                self._listeners.remove(listener)

    def __getitem__(self, identifier: str) -> Concept:
        concept = self._find(identifier)
        if concept is None:
            raise unknown_identifier(identifier, self._concepts)
        return concept

    def _find(self, identifier: object) -> Concept | None:
        return self._concepts.get(composed(identifier)) if isinstance(identifier, str) else None

    def __contains__(self, identifier: object) -> bool:
        return self._find(identifier) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._concepts))

    def values(self) -> ValuesView[Concept]:
        """Return a snapshot of the concepts, unaffected by other threads."""
        return dict(self._concepts).values()

    def items(self) -> ItemsView[str, Concept]:
        """Return a snapshot of the items, unaffected by other threads."""
        return dict(self._concepts).items()

    def __len__(self) -> int:
        return len(self._concepts)

    def __reduce__(self) -> tuple[object, ...]:
        made = partial(type(self), device=self.device, false_names_per_1000=self.false_names_per_1000)
        return made, (list(self.values()),)  # a copy starts without callbacks and rebuilds its gates

    def __repr__(self) -> str:
        return f"ConceptLibrary({library_text(self._concepts)})"

    def _repr_html_(self) -> str:
        return library_html(self.values())

    @property
    def false_names_per_1000(self) -> float | None:
        """The highest expected number of false detections per 1000 pictures that show none of the concepts.

        Heads become stricter with the number of concepts, the most permissive first, and are never more
        permissive than as learned (None). The rate holds for everyday pictures (objects) and faces of
        strangers (people), not for look-alikes.
        """
        return None if self._gates.false_names is None else 1000 * self._gates.false_names

    @false_names_per_1000.setter
    @_library_lock
    def false_names_per_1000(self, value: float | None) -> None:
        self._gates.set_false_names(check_false_names(value))
        self._changed()

    @property
    def paths(self) -> dict[str, Path | None]:
        """Identifier → the local folder it was last loaded from or saved to; None if there is none."""
        return {identifier: concept.folder for identifier, concept in self.items()}

    def add(self, concept_or_path: Concept | str | PathLike[str]) -> Concept:
        """Add a concept, or load one from its folder; the others do not change.

        Raises:
            ConceptExistsError: its identifier or its spoken word is taken, ignoring case.
            NotFittedError: its head is not fitted.
            MissingFileError, ConceptFileError, UnknownHeadError: see `Concept.load`.
        """
        return self.add_all([concept_or_path])[0]

    def add_all(self, concepts_or_paths: Iterable[Concept | str | PathLike[str]]) -> list[Concept]:
        """Add many concepts or concept folders: all of them, or none if one is refused.

        Raises:
            ConceptExistsError, NotFittedError, MissingFileError, ConceptFileError: see `add`.
        """
        given = None if isinstance(concepts_or_paths, str | bytes) else concepts_or_paths
        check_is(given, Iterable, what="concepts of a library", expected="a list of concepts or folders")
        return self._add_all(
            [
                one if isinstance(one, Concept) else Concept.load(one, device=self.device)
                for one in concepts_or_paths
            ]
        )

    @_library_lock
    def _add_all(self, new: list[Concept]) -> list[Concept]:
        taken: dict[str, Concept] = {}
        for concept in new:
            self.check_free(concept.identifier, concept.spoken)
            if not concept.words.isdisjoint(taken):
                raise word_twice(concept, taken)
            taken |= dict.fromkeys(concept.words, concept)
        gates = self._gates.check(new)  # fails here and now if they cannot be scored together
        self._gates.add(new, gates)
        self._concepts |= {concept.identifier: concept for concept in new}
        self._identifier_by_word |= {word: concept.identifier for word, concept in taken.items()}
        self._changed()
        self._call_back(new)
        return new

    @_library_lock
    def add_learned(self, concepts: Sequence[Concept]) -> list[Concept]:
        """Add many concepts, all or none; they replace introduced concepts with the same identifiers.

        Raises:
            ConceptExistsError, NotFittedError: see `add`.
        """
        gone = [self.remove(one.identifier) for one in concepts if self.is_introduced(one.identifier)]
        try:
            return self._add_all(list(concepts))
        except Exception:
            self._add_all(gone)
            raise

    def is_introduced(self, identifier: str) -> bool:
        """Whether the library has that concept as an introduced one: a description, but no embedding."""
        concept = self._find(identifier)
        return concept is not None and not concept.embeddings and concept.description is not None

    @_library_lock
    def replace(self, concept: Concept) -> Concept:
        """Replace the concept that has the same identifier, and return the replaced one.

        Raises:
            UnknownConceptError: there is none.
            ConceptExistsError: its spoken word belongs to another concept.
            NotFittedError: its head is not fitted; the library is unchanged.
        """
        check_is(concept, Concept, what="new concept", expected="a Concept")
        old, identifier = self[concept.identifier], concept.identifier
        self.check_free(concept.spoken, but=identifier)
        self._gates.check([concept], but=old)
        self._gates.replace(old, concept)
        self._concepts = with_entry_replaced(self._concepts, identifier, identifier, concept)
        self._free_words(identifier, old)
        self._identifier_by_word |= dict.fromkeys(concept.words, identifier)
        self._changed()
        self._call_back([concept])
        return old

    @_library_lock
    def remove(self, identifier: str, *, erase: bool = False) -> Concept:
        """Remove a concept from the library, and return it.

        Args:
            identifier: of the concept.
            erase: also delete the folder it was last loaded from or saved to, with everything in it, and
                check that it is gone. Copies elsewhere stay. If it was never saved, or its folder is gone,
                it is removed and a warning logged that nothing was erased.

        Raises:
            UnknownConceptError: it is not in the library.
            NotWritableError: the folder could not be erased; the concept is still in the library.
        """
        concept = self[identifier]
        identifier = concept.identifier
        if erase:
            erase_from_disk(concept)
        del self._concepts[identifier]
        self._free_words(identifier, concept)
        self._gates.remove(identifier, concept)
        self._changed()
        return concept

    @_library_lock
    def rename(self, old: str, new: str) -> Concept:
        """Change the identifier of a concept, in each library that holds it.

        Its head, embeddings and position stay. An embedding still makes the model generate the word that it
        was learned with, kept as `concept.spoken`; callers replace that word in the text that they show
        (`myvlm.text.replace_word`), until the concept is learned again. Files change when it is saved.

        Raises:
            UnknownConceptError: there is no `old`.
            ConceptExistsError: `new` is a word of another concept, in any library that holds this one.
            InputError: `new` is not a valid identifier.
        """
        concept = self[old]
        old, new = concept.identifier, check_identifier(new)
        if old == new:
            return concept
        others = [one for one in _libraries_holding(concept) if one is not self]
        for library in (self, *others):
            library.check_free(new, but=old)
        if warning := caution(new):
            _log.warning(warning)
        for library in (self, *others):
            library._rekey(old, new, concept)
        concept.identifier = new
        for library in (self, *others):
            library._changed()
        return concept

    @_library_lock
    def set_head(self, concept: Concept, head: Head, *, instead_of: Head) -> bool:
        """Replace a concept's head in each library that holds it; False if the head is not `instead_of`.

        Raises:
            UnknownConceptError: the concept is not in the library.
            NotFittedError, InputError: the head cannot be scored with the others; nothing has changed.
        """
        if self[concept.identifier] is not concept or concept.head is not instead_of:
            return False
        before, after = copy.copy(concept), dataclasses.replace(concept, head=head)
        self._gates.check([after], but=concept)
        concept.head = head
        for library in _libraries_holding(concept):
            library._gates.replace(before, concept)
        return True

    @_library_lock
    def gated(self) -> list[tuple[list[Concept], Gate]]:
        """Return each gate with the concepts that it scores, in the gate's order."""
        return self._gates.gated()

    def _rekey(self, old: str, new: str, concept: Concept) -> None:
        self._concepts = with_entry_replaced(self._concepts, old, new, concept)
        self._gates.rename(old, new, concept)
        self._free_words(old, concept)
        self._identifier_by_word |= dict.fromkeys(folded(new, concept.spoken), new)

    @_library_lock
    def check_free(self, *words: str, but: str | None = None) -> None:
        """Raise ConceptExistsError if a concept other than `but` has one of the words, ignoring case."""
        for word in words:
            taken = self._identifier_by_word.get(fold(word))
            if taken is not None and taken != but:
                raise word_taken(word, self[taken])

    def correct(
        self, image: ImageSource, identifier: str, *, present: bool | None, box: Box | None = None
    ) -> Correction:
        """Correct a concept's head: does the picture show the concept? See `MyVLM.correct`."""
        return correct(self, self[identifier], load_image(image), present, box)

    def confusable(self, *, at_least: float = POSSIBLY_DETECTED) -> list[ConfusablePair]:
        """Find pairs of concepts, one of which has at least that probability in a photo of the other.

        Uses stored features: no encoder runs. Concepts from older files, which have none, are skipped.
        """
        return confusable(self, at_least)

    def separate(self, *identifiers: str) -> list[Correction]:
        """Train concepts against each other: photos of one become negatives of the other.

        Training photos stay recognized. People are skipped: their gate assigns a face to one person only.

        Args:
            identifiers: concepts to separate, each from every other; if one is given, it is separated from
                those it is confusable with; if none, all confusable pairs are separated.
        """
        return separate(self, [self[one].identifier for one in identifiers], self)

    def _free_words(self, identifier: str, concept: Concept) -> None:
        for word in folded(identifier, concept.spoken):
            self._identifier_by_word.pop(word, None)

    def recognise(self, images: ImageSources) -> list[Detections]:
        """Detect all concepts: for each picture one detection per concept, present or not, in library order.

        Concepts whose heads share an encoder are scored by one encoder pass and one matrix product. Detection
        objects are created on access; with thousands of concepts, use `recognise(...)[0].present`.

        Raises:
            ImageError, MissingFileError, InputError: a picture cannot be read.
            ConceptFileError: an encoder's weights are not those that a head was learned with.
        """
        pictures = load_images(images)
        with _library_lock:
            identifiers = list(self._concepts)
            gates = self._gates.of(identifiers)
        parts = [(columns, gate.score(pictures)) for columns, gate in gates]
        scores = merge(len(identifiers), parts, len(pictures))
        return [Detections(identifiers, scores, picture) for picture in range(len(pictures))]

    def present(self, found: Detections) -> list[Concept]:
        """Return the detected concepts, without any that another thread has removed or renamed meanwhile."""
        known = map(self._find, found.seen)
        return [concept for concept in known if concept]

    def _changed(self) -> None:
        self.state = object()


def _libraries_holding(concept: Concept) -> list[ConceptLibrary]:
    return [one for one in libraries_holding(concept) if isinstance(one, ConceptLibrary)]
