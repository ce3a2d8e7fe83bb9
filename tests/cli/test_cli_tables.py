"""`myvlm album --out`: a table of an album, and errors before a model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from myvlm import errors
from myvlm.tinyworld.fewshot import pictures
from tests.support.command import Myvlm
from tests.support.taught import Taught


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number, picture in enumerate(pictures([*taught.kit.present[:2], *taught.kit.other[:1]])):
        picture.save(folder / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    return folder


def test_an_album_is_a_table_and_is_read_once(
    myvlm: Myvlm, taught: Taught, album: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra [ray] is not installed")
    words = ["album", album, "--concepts", taught.folder, "--out", tmp_path / "out", "--json"]
    first = myvlm(*words, "--batch", 2)
    assert first.code == 0, first.stderr
    assert "broken.jpg cannot be read" in first.stderr
    document = first.document
    assert (document["photos"], document["read"]) == (4, 4)
    assert document["seen"] == {taught.word: 2}
    assert [Path(one["picture"]).name for one in document["unusable"]] == ["broken.jpg"]
    rows = parquet.read_table(document["table"]).to_pylist()
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png", "2.png", "broken.jpg"]
    assert [row["seen"] for row in rows] == [[taught.word], [taught.word], [], []]
    again = myvlm(*words)
    assert again.document == {**document, "read": 1}, "a broken one may be whole now"
    assert parquet.read_table(document["table"]).to_pylist() == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "ray"], "--workers ray needs --out"),
        (["--out", "out", "--write-names"], "A table and names in metadata exclude each other"),
        (["--out", "out", "--erase-names", "sks"], "A table and names in metadata exclude each other"),
    ],
)
def test_workers_and_names_are_not_of_one_run(
    myvlm: Myvlm, album: Path, words: list[str], message: str
) -> None:
    done = myvlm("album", album, *words)
    assert done.code == 2
    assert message in done.stderr
    assert not Path("out").exists()


def test_what_is_not_installed_is_said_first(
    myvlm: Myvlm, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str, *, what: str, install: str) -> None:
        raise errors.MissingPackageError(f"{what} needs {module}.", fix=f'pip install "{install}"')

    monkeypatch.setattr("myvlm.cli.tables.import_extra", absent)
    done = myvlm("album", album, "--out", "out")
    assert done.code == 2
    assert 'pip install "myvlm[ray]"' in done.stderr
