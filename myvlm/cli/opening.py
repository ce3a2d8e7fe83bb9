"""Load a model and its concepts for a command; torch and transformers are imported only when needed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from myvlm.cli.options import Dtype
from myvlm.cli.screen import Screen
from myvlm.concepts import collection
from myvlm.concepts.disk.storage import concept_folders
from myvlm.concepts.remote.address import local_path, path_or_url
from myvlm.concepts.remote.transfer import fetched, fetched_all, is_concept
from myvlm.errors import ConceptFileError, MissingFileError
from myvlm.files.reading import absolute

if TYPE_CHECKING:
    from myvlm.api import MyVLM
    from myvlm.concepts.concept import Concept


def open_model(
    out: Screen, backbone: str, device: str | None, dtype: Dtype | None, false_names: float | None = None
) -> MyVLM:
    """Load a model without concepts.

    Args:
        false_names: limit for the concepts that are added later: false detections per 1000 pictures.

    Raises:
        UnknownBackboneError: there is no such model.
        InputError: there is no such device, or `false_names` is not a valid rate.
    """
    with out.busy(f"loading {backbone}"):
        from myvlm.api import MyVLM
        from myvlm.concepts.gates import check_false_names

        check_false_names(false_names)
        _hide_weights_progress_bar()
        vlm = MyVLM.from_pretrained(backbone, device=device, dtype=dtype.value if dtype else None)
        if false_names is not None:
            vlm.concepts.false_names_per_1000 = false_names
        return vlm


def local_collection(place: str | None) -> Path | None:
    """Return the local path. Raises InputError for an address: the caller changes files on this machine."""
    return None if place is None else local_path(place, "folder of concepts")


def fetch_copies(out: Screen, address: str) -> list[tuple[Path, bool]]:
    """Fetch the concepts at an address into local copies that are deleted when the command ends.

    Returns:
        Each copy's folder, and whether the address is that of a single concept rather than a collection.

    Raises:
        MissingFileError, ConceptFileError, RemoteError: see `Concept.load`.
    """
    with out.busy(f"fetching {address}"):
        if is_concept(address):
            return [(out.until_end.enter_context(fetched(address)), True)]
        found = out.until_end.enter_context(fetched_all(address))
    if not found:
        raise MissingFileError(
            f"{address} contains no concept.",
            got="no folder with a concept.json",
            expected="a concept, or a folder of concepts",
            fix="check the address, or upload a concept first: myvlm concepts push --help",
        )
    return [(copy, False) for copy, _ in found]


def chosen_folders(out: Screen, places: Sequence[str | Path] | None) -> list[tuple[Path, bool]]:
    """Return the concept folders that the user chose, each with whether it was named itself.

    The others were found in a collection. Concepts at an address are copied here until the command ends.

    Raises:
        MissingFileError: a place does not exist, or contains no concept.
    """
    if places is None:
        return [(one, False) for one in concept_folders(collection.DEFAULT)]
    found: dict[Path, tuple[Path, bool]] = {}  # keyed by absolute path: one may be named twice
    for place in places:
        folder = path_or_url(place, "folder of concepts")
        if isinstance(folder, str):
            found |= {copy: (copy, named) for copy, named in fetch_copies(out, folder)}
            continue
        inside = concept_folders(folder)
        if (folder / "concept.json").exists() or not folder.is_dir():
            found[absolute(folder)] = folder, True  # loading reports it if it is no concept folder
        elif inside:
            for one in inside:
                found.setdefault(absolute(one), (one, False))
        else:
            raise MissingFileError(
                f"{folder} contains no concept.",
                got=", ".join(sorted(one.name for one in folder.iterdir())[:5]) or "an empty folder",
                expected="a concept folder, or a folder of concept folders",
                fix="learn a concept first: myvlm learn --help",
            )
    return list(found.values())


def add_concepts(out: Screen, vlm: MyVLM, folders: Sequence[tuple[Path, bool]]) -> None:
    """Load concepts into the model's library.

    A concept without an embedding for this model is introduced by its description. A concept found in a
    collection is skipped with a note if it is damaged, or if it was learned for another model and has no
    description.

    Raises:
        ConceptFileError: a concept that the user named is truncated, altered or of a newer version, or has
            neither an embedding for this model nor a description.
        ConceptExistsError: two concepts share an identifier, or a word that one was learned with.
    """
    from myvlm.concepts.concept import Concept
    from myvlm.speaking.addressing import only_introduced

    introduced: list[Concept] = []
    for folder, named in folders:
        try:
            concept = Concept.load(folder, device=vlm.concepts.device)
            is_introduced = only_introduced(vlm.backbone, concept)
            if not is_introduced:
                concept.embedding_for(vlm.backbone.name, vlm.backbone.fingerprint(), vlm.backbone.dim)
        except ConceptFileError as error:
            if named:
                raise
            out.note(f"skipping {folder}: {error.what} To use it: {error.fix}.")
        else:
            with _silence_library_warning():
                vlm.concepts.add(concept)
            introduced += [concept] if is_introduced else []
    if introduced:
        out.note(_introduced_note(introduced, vlm.backbone.name))
    if not vlm.concepts:
        out.note("No concepts are loaded: this is the output of the plain model.")


def _introduced_note(concepts: Sequence[Concept], backbone: str) -> str:
    """Return the note that the model gets only the descriptions of these concepts, and how to learn one."""
    names = ", ".join(one.identifier for one in concepts)
    return (
        f"No embedding for {backbone}: {names}. The model gets descriptions instead, such as "
        f'"{concepts[0].spoken} is {concepts[0].description}." '
        f"Learn {concepts[0].identifier} with this model, {concepts[0].how_again(backbone)}."
    )


@contextmanager
def _silence_library_warning() -> Iterator[None]:
    """Silence the library's warning per concept without an embedding: one note covers them all."""
    from myvlm.concepts.concept import warn_learned_elsewhere

    log = logging.getLogger(warn_learned_elsewhere.__module__)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _hide_weights_progress_bar() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # the one for reading weights; downloads keep theirs
