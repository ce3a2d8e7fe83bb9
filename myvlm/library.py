"""The library: all concepts that are loaded together, recognised by one pass over each picture.

Everything is checked before anything is changed. Imports `errors`, `images`, `concept` and the head contract.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np

from myvlm.concept import Concept, check_identifier
from myvlm.concept_folder import erase_folder
from myvlm.errors import ConceptExistsError, UnknownConceptError
from myvlm.heads import Detection, Gate, GateScores, Head
from myvlm.images import ImageSources, load_images

Group: TypeAlias = tuple[type[Head], Hashable]


class ConceptLibrary(Mapping[str, Concept]):
    """Concepts by identifier, in the order in which they were added.

    Args:
        concepts: concepts or concept folders to begin with.
        device: where the encoders of concepts loaded from folders run.

    >>> library = ConceptLibrary()
    >>> len(library), "sks" in library
    (0, False)
    """

    def __init__(
        self, concepts: Iterable[Concept | str | PathLike[str]] = (), *, device: str = "cpu"
    ) -> None:
        self.device = device
        self._concepts: dict[str, Concept] = {}
        self._folded: dict[str, str] = {}  # a sentence cannot tell Anna from ANNA
        self._gates: dict[Group, tuple[list[str], Gate]] = {}
        for one in concepts:
            self.add(one)

    def __getitem__(self, identifier: str) -> Concept:
        if identifier not in self._concepts:
            raise UnknownConceptError(
                f"No concept {identifier!r} is in this library.",
                got=identifier,
                expected=f"one of {', '.join(self._concepts)}" if self._concepts else "the library is empty",
                fix="add it first, or check the spelling",
            )
        return self._concepts[identifier]

    def __contains__(self, identifier: object) -> bool:
        return identifier in self._concepts

    def __iter__(self) -> Iterator[str]:
        return iter(self._concepts)

    def __len__(self) -> int:
        return len(self._concepts)

    def __repr__(self) -> str:
        return f"ConceptLibrary({', '.join(self._concepts) or 'empty'})"

    @property
    def paths(self) -> dict[str, Path | None]:
        """Identifier → the folder it was last loaded from or saved to; None if it is only in memory."""
        return {identifier: concept.folder for identifier, concept in self._concepts.items()}

    def add(self, concept_or_path: Concept | str | PathLike[str]) -> Concept:
        """Add a concept, or load one from its folder; the others are not touched.

        Raises:
            ConceptExistsError: the identifier is taken, in whatever case it is written.
            NotFittedError: its head has learned nothing.
            MissingFileError, ConceptFileError, UnknownHeadError: see `Concept.load`.
        """
        if isinstance(concept_or_path, Concept):
            concept = concept_or_path
        else:
            concept = Concept.load(concept_or_path, device=self.device)
        self.check_free(concept.identifier)
        group = _group(concept)
        sibling = next((one for one in self._concepts.values() if _group(one) == group), concept)
        _gate_of([sibling, concept])  # fails here and now if it cannot be scored with the others
        self._concepts[concept.identifier] = concept
        self._folded[concept.identifier.casefold()] = concept.identifier
        self._gates.pop(group, None)
        return concept

    def remove(self, identifier: str, *, erase: bool = False) -> Concept:
        """Take a concept out, and hand it over.

        Args:
            identifier: of the concept.
            erase: also delete its folder with all that is in it, and check that it is gone. Copies that were
                made elsewhere are not known here. A concept that was never saved has nothing to erase.

        Raises:
            UnknownConceptError: it is not here.
            NotWritableError: the folder could not be erased; the concept is still in the library.
        """
        concept = self[identifier]
        if erase and concept.folder is not None:
            erase_folder(concept.folder, concept.spoken)
            concept.folder = None
        del self._concepts[identifier]
        del self._folded[identifier.casefold()]
        self._gates.pop(_group(concept), None)
        return concept

    def rename(self, old: str, new: str) -> Concept:
        """Call a concept by another word; its head, its embeddings and its place in the order stay.

        An embedding goes on making the model say the word that it learned, kept as `concept.spoken`; whoever
        shows the text replaces that word (`myvlm.concept.replace_word`). Learn again to be rid of it. On disk
        nothing changes until the concept is saved.

        Raises:
            UnknownConceptError: there is no `old`.
            ConceptExistsError: `new` is taken.
            InputError: `new` cannot be an identifier.
        """
        concept = self[old]
        check_identifier(new)
        if old == new:
            return concept
        self.check_free(new, but=old)
        renamed = dataclasses.replace(concept, identifier=new)
        self._concepts = {
            (new if key == old else key): (renamed if key == old else one)
            for key, one in self._concepts.items()
        }
        self._folded = {key.casefold(): key for key in self._concepts}
        self._gates.pop(_group(concept), None)  # it remembers identifiers
        return renamed

    def check_free(self, identifier: str, *, but: str | None = None) -> None:
        """Raise ConceptExistsError if a concept other than `but` has the identifier, in whatever case."""
        taken = self._folded.get(identifier.casefold())
        if taken is not None and taken != but:
            raise ConceptExistsError(
                f"The identifier {identifier!r} is taken.",
                got=taken,
                expected="an identifier that differs from it in more than upper and lower case",
                fix="rename or remove the other one first",
            )

    def recognise(self, images: ImageSources) -> list[list[Detection]]:
        """For each picture one detection per concept, in the library's order, present or not.

        Concepts whose heads share an encoder are scored by one pass of it and one matrix product.

        Raises:
            ImageError, MissingFileError, InputError: a picture cannot be read.
            ConceptFileError: an encoder's weights are not those that a head was learned with.
        """
        pictures = load_images(images)
        found: list[dict[str, Detection]] = [{} for _ in pictures]
        for group in dict.fromkeys(map(_group, self._concepts.values())):
            identifiers, gate = self._gate(group)
            scores = gate.score(pictures)
            for detections, row in zip(found, _rows(identifiers, scores), strict=True):
                detections.update(row)
        return [[detections[identifier] for identifier in self._concepts] for detections in found]

    def _gate(self, group: Group) -> tuple[list[str], Gate]:
        if group not in self._gates:
            members = [one for one in self._concepts.values() if _group(one) == group]
            self._gates[group] = ([one.identifier for one in members], _gate_of(members))
        return self._gates[group]


def _group(concept: Concept) -> Group:
    return type(concept.head), concept.head.shares


def _gate_of(members: list[Concept]) -> Gate:
    heads = [one.head for one in members]
    return type(heads[0]).gate(heads)


def _rows(identifiers: list[str], scores: GateScores) -> Iterator[dict[str, Detection]]:
    """Picture by picture the detections of one gate. Only what is present gets its box."""
    boxed = scores.present & ~np.isnan(scores.boxes).any(axis=-1)
    # plain lists: with 10,000 concepts, reading array elements one by one would take longer than the encoder
    columns = (scores.probabilities, scores.present, boxed, scores.boxes)
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield {
            identifier: Detection(identifier, probability, present, tuple(box) if has_box else None)
            for identifier, probability, present, has_box, box in zip(identifiers, *row, strict=True)
        }
