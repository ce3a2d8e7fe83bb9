"""A missing or damaged concept folder is refused, with the problem and a fix."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from myvlm.concepts import editing
from myvlm.concepts.concept import Concept
from myvlm.concepts.disk import storage as concept_folder
from myvlm.concepts.disk.storage import embedding_file
from myvlm.errors import (
    ConceptFileError,
    MissingFileError,
    UnknownHeadError,
)
from tests.support.records import rewrite

GOLDEN = Path(__file__).parents[1] / "golden"


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        record = json.loads((folder / "concept.json").read_text())
        change(record)
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (folder / "concept.json").write_text(text, encoding="utf-8")

    return spoil


def _written(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """`_edit` with an updated digest, as if a release had written this record."""

    return lambda folder: rewrite(folder, change)


def _flip(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 1
        (folder / name).write_bytes(data)

    return spoil


def _cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7]) and None


def _swap_in(directions: np.ndarray) -> Callable[[Path], None]:
    """A valid embedding file with other content, with its correct digest in the record."""

    def spoil(folder: Path) -> None:
        data = save({"directions": directions})
        (folder / EMBEDDING).write_bytes(data)
        digest = concept_folder.hashlib.sha256(data).hexdigest()
        _written(lambda record: record["embeddings"]["org/model"].update(sha256=digest))(folder)

    return spoil


EMBEDDING = "embeddings/org--model.safetensors"

SPOILT = {
    "newer": (
        _edit(lambda r: r.update(format_version=4)),
        r"newer release(.|\n)*format_version 4(.|\n)*upgrade",
    ),
    "no version": (
        _edit(lambda r: r.pop("format_version") and r.update(format_version="?")),
        "format_version",
    ),
    "a field too many": (_edit(lambda r: r.update(klass="os.system")), r"klass: Extra inputs"),
    "a field too few": (_edit(lambda r: r.pop("category")), r"category: Field required"),
    "an impossible identifier": (
        _written(lambda r: r.update(identifier="a/b")),
        r"invalid concept(.|\n)*'a/b'",
    ),
    "another kind of head": (_written(lambda r: r["head"]["meta"].update(kind="face")), "invalid concept"),
    "another threshold": (
        _edit(lambda r: r["head"]["meta"].update(threshold=0.7)),
        r"json was modified(.|\n)*rename",
    ),
    "another name": (_edit(lambda r: r.update(identifier="zwx")), r"json was modified"),
    "no digest": (
        _edit(lambda r: r.pop("sha256")),
        r"json was modified(.|\n)*its sha256 as the last field",
    ),
    "another digest": (
        _edit(lambda r: r.update(sha256="f00d")),
        r"json was modified(.|\n)*expected: +sha256 f00d",
    ),
    "called older": (_edit(lambda r: r.update(format_version=1)), r"json was modified"),
    "a threshold of nan": (
        _edit(lambda r: r["head"]["meta"].update(threshold=float("nan"))),
        "finite number",
    ),  # type: ignore[index]
    "record is not JSON": (_cut("concept.json"), r"concept\.json is not JSON"),
    "record is a list": (
        lambda folder: (folder / "concept.json").write_text("[]") and None,
        "is not a concept record",
    ),
    "record without an end": (
        lambda folder: (folder / "concept.json").write_text("[" * 100_000) and None,
        "not JSON",
    ),
    "record in latin-1": (
        lambda folder: (folder / "concept.json").write_bytes(b'{"\xe9":1}') and None,
        "not JSON",
    ),
    "head altered": (_flip("head.safetensors"), r"head\.safetensors was truncated or modified(.|\n)*sha256"),
    "head cut": (_cut("head.safetensors"), r"head\.safetensors was truncated or modified(.|\n)*bytes"),
    "head missing": (lambda folder: (folder / "head.safetensors").unlink(), r"head\.safetensors is missing"),
    "embedding altered": (_flip(EMBEDDING), r"org--model\.safetensors was truncated or modified"),
    "embedding missing": (
        lambda folder: (folder / EMBEDDING).unlink(),
        r"org--model\.safetensors is missing",
    ),
    "embedding misshapen": (
        _swap_in(np.ones((2, 4), np.float32)),
        r"shape \(2, 4\)(.|\n)*expected: +shape \(2, 5\)",
    ),
    "embedding of nan": (_swap_in(np.full((2, 5), np.nan, np.float32)), "not finite"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_folders_are_refused_with_what_is_wrong(saved: Path, case: str) -> None:
    spoil, message = SPOILT[case]
    spoil(saved)
    with pytest.raises(ConceptFileError, match=message) as caught:
        Concept.load(saved)
    assert caught.value.got is not None
    assert caught.value.expected is not None
    assert caught.value.fix is not None


def test_the_line_ends_of_windows_are_as_good(saved: Path) -> None:
    file = saved / "concept.json"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert Concept.load(saved).identifier == "sks"


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*-[0-9]")), ids=lambda one: one.name)
def test_a_folder_of_any_release_can_be_renamed_on_disk(golden: Path, tmp_path: Path) -> None:
    shutil.copytree(golden, tmp_path / "c")
    editing.rename(tmp_path, "ohwx", "zwx")
    again = Concept.load(tmp_path / "c")
    assert (again.identifier, again.spoken) == ("zwx", "sks")
    assert (again.head.examples_ is None) == golden.name.startswith("format")  # type: ignore[attr-defined]


def test_a_spoilt_folder_can_still_be_replaced(concept: Concept, saved: Path) -> None:
    _flip("head.safetensors")(saved)
    concept.save(saved)
    assert Concept.load(saved).identifier == "sks"


def test_a_kind_that_is_not_installed(saved: Path) -> None:
    _written(lambda record: record.update(kind="gait"))(saved)
    with pytest.raises(UnknownHeadError, match="'gait'"):
        Concept.load(saved)


def test_not_a_concept_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no concept folder"):
        Concept.load(tmp_path / "gone")
    with pytest.raises(ConceptFileError, match="is not a concept folder"):
        Concept.load(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConceptFileError, match="is not a concept folder"):
        Concept.load(tmp_path / "file")


def test_backbone_names_map_to_files_of_their_own() -> None:
    names = [
        "a/b",
        "a--b",
        "a b",
        "a_b",
        "../../etc/passwd",
        "..",
        ".a",
        "ä",
        "x" * 300,
        "x" * 301,
        "/tmp/my model",
    ]
    files = [embedding_file(name) for name in names]
    assert len(set(files)) == len(names)
    for file in files:
        assert file.startswith("embeddings/")
        assert file.count("/") == 1
        assert not file.startswith("embeddings/.")
        assert re.fullmatch(r"[A-Za-z0-9._-]+", file.removeprefix("embeddings/")), (
            "a name that all systems take"
        )
        assert len(file) < 150
