"""`myvlm album --import-names`: learn concepts from the named regions in the metadata of photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from myvlm.cli.screen import Screen
from myvlm.concepts import collection, editing
from myvlm.errors import ConceptExistsError, InputError
from myvlm.text import check_category, check_identifier, composed

if TYPE_CHECKING:
    from myvlm.album.importing import TaggedName
    from myvlm.api import MyVLM


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        collection: folder that the new concepts are written to.
        only: names to import; empty for all names.
        categories: `NAME=WORD` entries that set the category of a name.
    """

    collection: Path
    only: Sequence[str]
    categories: Sequence[str]


def learn_names(
    out: Screen, files: Sequence[Path], request: ImportRequest, load: Callable[[], MyVLM]
) -> None:
    """Learn a concept for each name that regions of the photos have, from crops of these regions.

    A name that is a concept of the collection already is skipped with a note.

    Raises:
        InputError: no region has a name, or none has a name that the user asked for.
    """
    from myvlm.album.exiftool import exiftool
    from myvlm.album.importing import find_tagged_names

    categories = _categories(request.categories)
    with exiftool() as tool, out.busy(f"reading the names in {len(files):,} photos"):
        found = find_tagged_names(tool, files)
    _check_names(found, [*request.only, *categories])
    chosen = [one for one in found if not request.only or one.name in map(composed, request.only)]
    vlm, learned, skipped = load(), list[dict[str, Any]](), list[dict[str, str]]()
    with out.progress("learning names", len(chosen)) as bar:
        for one in chosen:
            start = monotonic()
            try:
                folder = _learn_and_save(vlm, one, categories.get(one.name, one.category), request.collection)
            except InputError as error:  # continue with the other names
                out.note(f"skipping {one.name!r}: {error}")
                skipped.append({"name": one.name, "error": error.what})
            else:
                out.written.append(folder)
                seconds = round(monotonic() - start, 1)
                known = {"name": one.name, "folder": str(folder), "kind": one.kind, "seconds": seconds}
                learned.append({**known, "tagged": len(one.places)})
            bar.advance(bar.task_ids[0])
    table = Table("name", "tagged photos", "concept", box=None, pad_edge=False)
    for row in learned:
        table.add_row(Text(row["name"], style="bold magenta"), str(row["tagged"]), Text(row["folder"]))
    summary = f"{len(learned)} of {len(chosen)} names learned"
    out.show({"command": "album", "imported": learned, "passed": skipped}, table, Text(summary))


def _learn_and_save(vlm: MyVLM, one: TaggedName, category: str, place: Path) -> Path:
    name = check_identifier(one.name)
    folder = place / collection.default_folder(name, category).name
    collection.check_free(place, name)
    if folder.exists():
        raise ConceptExistsError(
            f"{folder} already exists.",
            got="a folder of that name",
            expected="a folder name that is not in use",
            fix="move that folder elsewhere",
        )
    concept = vlm.learn(name, one.crops(), category=category, kind=one.kind, progress=False)
    editing.save_new(concept, folder)
    return folder


def _categories(given: Sequence[str]) -> dict[str, str]:
    pairs = [text.rpartition("=") for text in given]
    for text, (name, _, word) in zip(given, pairs, strict=True):
        if not name:
            raise InputError(
                "--category does not say which name it is for.",
                got=f"--category {text}",
                expected="--category NAME=WORD",
                fix="write it as in --category Bo=dog",
            )
        check_category(word)
    return {composed(name): word for name, _, word in pairs}


def _check_names(found: Sequence[TaggedName], asked: Sequence[str]) -> None:
    known = {one.name: len(one.places) for one in found}
    unknown = [name for name in asked if composed(name) not in known]
    if unknown or not found:
        some = ", ".join(f"{name} ({count})" for name, count in list(known.items())[:12])
        raise InputError(
            f"No region of these photos is named {unknown[0]!r}."
            if unknown
            else "No region of these photos has a name.",
            got=some or "photos and sidecars without named regions",
            expected="names as digiKam, Lightroom or Picasa write them into photos or sidecars",
            fix="let that program write its face tags to the files, then run the command again",
        )
