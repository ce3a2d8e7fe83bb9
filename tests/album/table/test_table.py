"""An album as a table: its content, what is read again and what is not, on this machine and on a cluster."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow", reason="the extra [ray] is not installed")

from pyarrow import parquet

from myvlm import MyVLM
from myvlm.album.table.reading import PhotosLostError, read_table, run_here
from myvlm.album.table.rows import AlbumTable, PhotoRow, ReadBy
from myvlm.album.table.stages import Work
from myvlm.runtime.cluster import Columns
from myvlm.tinyworld.fewshot import pictures
from tests.support.exif import save_turned
from tests.support.taught import Taught, around


@pytest.fixture
def speaking(vlm: MyVLM, taught: Taught) -> MyVLM:
    own = around(vlm)
    own.concepts.add(taught.folder)
    return own


@pytest.fixture
def album(taught: Taught, tmp_path: Path) -> list[Path]:
    """Three pictures with the concept and two without, one of them rotated; a broken and a missing file."""
    folder = tmp_path / "album"
    folder.mkdir()
    shown = pictures([*taught.kit.present[:3], *taught.kit.other[:2]])
    for number, picture in enumerate(shown):
        save_turned(picture, folder / f"{number}.png", 6 if number == 1 else 1)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    return [*(folder / f"{number}.png" for number in range(5)), folder / "broken.jpg", folder / "gone.jpg"]


def read(
    vlm: MyVLM, folder: Path, album: Sequence[Path], *, batch: int = 2, stop_after: int | None = None
) -> tuple[list[PhotoRow], int]:
    """The rows of the table, and how many photos were read for them."""
    table, count = AlbumTable(folder, ReadBy.of(vlm, None)), 0
    paths = [str(file) for file in album]
    for row, was_known in read_table(
        table, paths, lambda left, known: run_here(left, known, vlm, None, batch)
    ):
        count += not was_known and not row.error
        if count == stop_after:
            table.write_part()
            return [], count
    return table.finish(paths), count


def test_a_table_has_what_the_model_says_and_the_reason_of_what_it_cannot(
    speaking: MyVLM, taught: Taught, album: list[Path], tmp_path: Path
) -> None:
    rows, count = read(speaking, tmp_path / "out", album)
    assert count == 5
    assert [row.path for row in rows] == [str(file) for file in album]
    replies = speaking.caption(album[:5])
    assert any(reply.seen for reply in replies)
    for row, reply in zip(rows, replies, strict=False):
        assert (row.caption, row.seen, row.error) == (reply.text, reply.seen, "")
        found = [one for one in reply.detections if one.present]
        assert list(row.probabilities) == [round(one.probability, 4) for one in found]
        assert [box for box in row.boxes if box] == [
            tuple(round(edge, 1) for edge in one.box) for one in found if one.box
        ]
    broken, gone = rows[5:]
    assert broken.hash
    assert "broken.jpg" in broken.error
    assert str(tmp_path) not in broken.error
    assert (gone.hash, gone.caption) == ("", "")
    assert "gone.jpg cannot be read" in gone.error
    kept = parquet.read_table(tmp_path / "out" / "album.parquet").to_pylist()
    assert [one["caption"] for one in kept] == [row.caption for row in rows]
    by = ReadBy.of(speaking, None)
    assert {(one["model"], one["model_fingerprint"], one["concepts_fingerprint"]) for one in kept} == {
        (by.model, by.model_fingerprint, by.concepts_fingerprint)
    }
    assert not (tmp_path / "out" / "parts").exists()


def test_what_was_read_is_not_read_again_wherever_it_lies_now(
    speaking: MyVLM, taught: Taught, album: list[Path], tmp_path: Path
) -> None:
    _, count = read(speaking, tmp_path / "out", album, stop_after=2)
    assert count == 2
    assert list((tmp_path / "out" / "parts").iterdir())
    moved = album[0].rename(album[0].with_name("moved.png"))
    album = [moved, *album[1:], moved.with_name("copy.png")]
    album[-1].write_bytes(moved.read_bytes())
    rows, count = read(speaking, tmp_path / "out", album)
    assert count == 3
    assert rows[0].path == str(moved)
    assert rows[-1] == PhotoRow(**{**vars(rows[0]), "path": str(album[-1])})
    assert rows[0].caption == speaking.caption(moved).text
    assert read(speaking, tmp_path / "out", album) == (rows, 0)
    (tmp_path / "out" / "parts").mkdir()
    (tmp_path / "out" / "parts" / "cut.parquet").write_bytes(b"PAR1 cut")
    album[2].write_bytes(album[3].read_bytes())
    again, count = read(speaking, tmp_path / "out", album)
    assert count == 0, "its content is another photo's"
    assert again[2].caption == again[3].caption
    before = ReadBy.of(speaking, None)
    speaking.concepts.false_names_per_1000 = 5
    assert ReadBy.of(speaking, None) != before, "the same heads, held to less"
    speaking.concepts.remove(taught.word)
    without, count = read(speaking, tmp_path / "out", album)
    assert count == 6, "all were read by other concepts"
    assert not any(row.seen for row in without)


def test_a_library_is_sent_as_it_is_and_sees_the_same_there(
    speaking: MyVLM, taught: Taught, album: list[Path]
) -> None:
    speaking.concepts.false_names_per_1000 = 5
    sent = pickle.loads(pickle.dumps(Work("tinyworld/llava", "cpu", None, speaking.concepts, None, 2)))
    there = sent.library()
    assert there.false_names_per_1000 == 5
    found = [[one.present for one in library.recognise(album[0])] for library in (there, speaking.concepts)]
    assert [[one.identifier for one in own] for own in found[0]] == [[taught.word]]
    assert [one.probability for one in found[0][0]] == [one.probability for one in found[1][0]]


def test_photos_that_never_come_are_said_and_those_that_come_twice_are_once(
    speaking: MyVLM, album: list[Path], tmp_path: Path
) -> None:
    paths = [str(file) for file in album]
    table = AlbumTable(tmp_path / "out", ReadBy.of(speaking, None))
    runs: list[Sequence[str]] = []

    def lossy(left: Sequence[str], known: frozenset[str]) -> Iterator[Columns]:
        runs.append(left)
        for _ in range(2):
            yield from run_here([one for one in left if "gone" not in one][:3], known, speaking, None, 2)

    rows = []
    with pytest.raises(PhotosLostError, match="1 photos were not read"):
        rows.extend(row for row, _ in read_table(table, paths, lossy))
    assert [len(left) for left in runs] == [7, 4, 1]
    assert Counter(row.path for row in rows) == Counter(paths[:-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, at import and when a node dies
def test_a_cluster_makes_the_same_table_and_loses_nothing_with_a_node(
    speaking: MyVLM, taught: Taught, album: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra [ray] is not installed")
    from myvlm.album.table.cluster import run_on_ray
    from tests.support.ray_cluster import nodes

    for number, picture in enumerate(pictures([*taught.kit.present, *taught.kit.other]), start=100):
        picture.save(tmp_path / f"{number}.png")
        album.append(tmp_path / f"{number}.png")
    expected, _ = read(speaking, tmp_path / "here", album)
    paths = [str(file) for file in album]
    work = Work("tinyworld/llava", "cpu", None, speaking.concepts, None, 2)
    table, given = AlbumTable(tmp_path / "out", ReadBy.of(speaking, None)), list[str]()
    with nodes(2) as cluster:

        def run(left: Sequence[str], known: frozenset[str]) -> Iterator[Any]:
            return run_on_ray(left, known, work)

        for row, _ in read_table(table, paths, run):
            given.append(row.path)
            if len(given) == 3:
                cluster.kill()
    assert Counter(given) == Counter(paths)
    assert table.finish(paths) == expected
