"""The journal of an album: known photos are not read again, however the earlier run ended."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from myvlm import Embedding, MyVLM, results
from myvlm.album import journal as journal_module
from myvlm.album.journal import Journal, Row, Seen, reader_digest, stamp
from myvlm.album.page import AlbumFiles
from myvlm.album.reading import read_album, unread
from myvlm.errors import NotWritableError
from myvlm.files import claims
from myvlm.files.photos import album_files
from myvlm.speaking import speaker
from myvlm.tinyworld import sample_picture
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (folder := tmp_path / "album" / "2024").mkdir(parents=True)
    for number in range(3):
        sample_picture(number).save(folder / f"{number}.png")
    (folder / "1.png").write_bytes(b"\x89PNG nothing")
    return folder.parent


def read(vlm: MyVLM, album: Path) -> tuple[Journal, list[Row]]:
    place = AlbumFiles(album.parent / "page.html")
    journal = Journal(place.journal, reader_digest(vlm, None))
    todo = unread(album_files(album), journal, place)
    return journal, list(read_album(vlm, todo, journal, place, prompt=None, batch=2))


def test_only_new_and_changed_photos_are_read_again(fresh: MyVLM, album: Path, taught: Taught) -> None:
    _, rows = read(fresh, album)
    assert [row.file.name for row in rows] == ["0.png", "1.png", "2.png"]
    assert [bool(row.error) for row in rows] == [False, True, False]
    assert "1.png cannot be read" in rows[1].error
    assert str(album) not in rows[1].error
    again, nothing = read(fresh, album)
    assert nothing == []
    assert list(again.rows(album_files(album))) == rows
    sample_picture(9).save(album / "2024" / "1.png")
    sample_picture(8).save(album / "new.png")
    os.utime(album / "2024" / "2.png", ns=(5, 5))
    _, rows = read(fresh, album)
    assert sorted(row.file.name for row in rows) == ["1.png", "2.png", "new.png"]
    assert not any(row.error for row in rows)
    AlbumFiles(album.parent / "page.html").thumb(album / "new.png").unlink()
    assert [row.file.name for row in read(fresh, album)[1]] == ["new.png"]
    fresh.concepts.add(taught.folder)
    assert len(read(fresh, album)[1]) == 4  # other concepts, so photos are read again


def test_a_photo_that_is_not_kept_in_memory_is_read_from_its_file_once(
    fresh: MyVLM, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "AT_ONCE", 0)  # as for batches of more photos: replies hold paths
    opened: list[Any] = []
    load_image = results.load_image
    monkeypatch.setattr(results, "load_image", lambda source: opened.append(source) or load_image(source))
    _, rows = read(fresh, album)
    assert opened == [row.file for row in rows if not row.error]


def test_what_was_learned_again_under_another_name_of_the_model_is_another_question(
    fresh: MyVLM, taught: Taught
) -> None:
    """The model's name on the hub and a local folder have the same weights, so they share rows."""
    [learned] = taught.concept.embeddings.values()
    own = {part.name: getattr(learned, part.name) for part in dataclasses.fields(Embedding)}
    readers = []
    for directions in (learned.directions, -learned.directions):
        again = Embedding(**{**own, "directions": directions})
        fresh.concepts.add(dataclasses.replace(taught.concept, embeddings={"a/folder": again}, folder=None))
        readers.append(reader_digest(fresh, None))
        fresh.concepts.remove(taught.word)
    assert readers[0] != readers[1]


def test_where_nobody_new_is_seen_the_caption_stays(
    fresh: MyVLM, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (album := tmp_path / "album").mkdir()
    scenes = [*taught.kit.present[:2], *taught.kit.other[:3]]
    for number, picture in enumerate(pictures(scenes)):
        picture.save(album / f"{number}.png")
    asked: list[int] = []
    generate = fresh.backbone.generate

    def counted(images: Sequence[Any], *given: Any, **options: Any) -> Any:
        asked.append(len(images))
        return generate(images, *given, **options)

    monkeypatch.setattr(fresh.backbone, "generate", counted)
    _, plain = read(fresh, album)
    assert sum(asked) == 5
    fresh.concepts.add(taught.folder)
    asked.clear()
    _, rows = read(fresh, album)
    assert [bool(row.seen) for row in rows] == [True, True, False, False, False]
    assert sum(asked) == 2, "those without it were described again"
    assert [row.text for row in rows[2:]] == [row.text for row in plain[2:]]
    assert read(fresh, album)[1] == []
    (tmp_path / "page_files" / "journal.jsonl").unlink()
    assert read(fresh, album)[1] == rows, "read anew it is the same"
    asked.clear()
    fresh.concepts.rename(taught.word, "zwx")
    _, renamed = read(fresh, album)
    assert sum(asked) == 2
    assert all("zwx" in row.text for row in renamed[:2])
    fresh.concepts.remove("zwx")
    asked.clear()
    assert [row.text for row in read(fresh, album)[1]] == [row.text for row in plain]
    assert sum(asked) == 2


def test_a_line_cut_short_is_read_again_and_no_more(fresh: MyVLM, album: Path) -> None:
    journal, rows = read(fresh, album)
    whole = journal.file.read_bytes()
    journal.file.write_bytes(whole[:-40])  # as if killed while writing
    _, again = read(fresh, album)
    assert [row.file for row in again] == [rows[-1].file]
    assert journal.file.read_bytes().count(b"\n") == 3
    journal.file.write_text("not mine\n" + journal.file.read_text())
    assert read(fresh, album)[1] == []


def test_tidying_leaves_one_line_a_photo_that_is_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "files" / "journal.jsonl", "me")
    (kept := tmp_path / "kept.jpg").write_bytes(b"1")
    for file in (kept, tmp_path / "gone.jpg", kept):
        journal.add(Row(file=file, stamp=stamp(file), by="me", text="a mug"))
    journal.tidy()
    assert journal.file.read_text().count("\n") == 1
    assert [row.text for row in Journal(journal.file, "me").rows([kept])] == ["a mug"]
    assert list(Journal(journal.file, "another").rows([kept])) == []


def test_tidying_leaves_what_another_process_added(tmp_path: Path) -> None:
    """When two processes read one album, the first to end must keep what the other has added."""
    (mine := tmp_path / "mine.jpg").write_bytes(b"1")
    (its := tmp_path / "its.jpg").write_bytes(b"2")
    journal, other = (Journal(tmp_path / "journal.jsonl", "me") for _ in range(2))
    for _ in range(2):
        journal.add(Row(file=mine, stamp=stamp(mine), by="me", text="a mug"))
    other.add(Row(file=its, stamp=stamp(its), by="me", text="a dog"))
    journal.tidy()
    assert journal.file.read_text().count("\n") == 2
    assert [row.text for row in Journal(journal.file, "me").rows([mine, its])] == ["a mug", "a dog"]
    assert set(journal.files) == {mine, its}, "so that what is kept of its photos stays too"


@pytest.mark.skipif(claims.fcntl is None, reason="there are no locks on this system; run it on another")
def test_lines_are_written_and_cut_off_while_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = []
    for work in (journal_module.add_lines, journal_module.drop_partial_line, journal_module.write_lines):

        def asked(file: Path, *given: Any, work: Any = work) -> None:
            with claims.try_lock(tmp_path) as free:
                alone.append((work.__name__, free))
            work(file, *given)

        monkeypatch.setattr(journal_module, work.__name__, asked)
    journal = Journal(tmp_path / "journal.jsonl", "me")
    journal.add(Row(file=tmp_path / "gone.jpg", stamp=(0, 0), by="me"))
    Journal(journal.file, "me").tidy()
    assert alone == [("add_lines", False), ("drop_partial_line", False), ("write_lines", False)]


def test_metadata_written_by_us_does_not_make_a_photo_new(tmp_path: Path) -> None:
    (file := tmp_path / "one.jpg").write_bytes(b"1")
    journal = Journal(tmp_path / "journal.jsonl", "me")
    seen = (Seen(name="sks", probability=0.9),)
    journal.add(Row(file=file, stamp=stamp(file), by="me", seen=seen))
    file.write_bytes(b"1 and names")
    assert journal.row(file) is None
    journal.update_stamp(file)
    found = Journal(journal.file, "me").row(file)
    assert found
    assert found.seen == seen


@pytest.mark.parametrize("name", ["PIL.Image.Image.save", "myvlm.album.journal.add_lines"])
def test_a_full_disk_is_one_of_our_errors(
    name: str, fresh: MyVLM, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(name, full)
    with pytest.raises(NotWritableError, match="No space left on device"):
        read(fresh, album)


def test_links_that_are_not_followed_are_named(
    album: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    album_files(album)
    (album / ".loop").symlink_to(album)
    (album / "notes.txt").symlink_to("nowhere.txt")
    (album / "linked.png").symlink_to(album / "2024" / "0.png")
    assert len(album_files(album)) == 4
    assert caplog.messages == []
    (album / "gone.png").symlink_to("nowhere.png")
    assert len(album_files(album)) == 4
    (album / "again").symlink_to(album)
    assert len(album_files(album)) == 4
    assert caplog.messages == [
        f"Skipping {album / 'gone.png'}, a dead link",
        f"Skipping {album / 'again'}, a link to a folder (pass that to include it), and 1 more",
    ]


def test_folders_in_folders_are_walked_but_not_hidden_ones(album: Path) -> None:
    for name in (".hidden", "thumbs"):
        (album / name).mkdir()
        sample_picture(0).save(album / name / "small.png")
    (album / "thumbs" / ".nomedia").touch()
    assert [file.name for file in album_files(album)] == ["0.png", "1.png", "2.png"]
    (album / ".nomedia").touch()  # ignored in the folder that the user named
    assert len(album_files(album)) == 3
    assert [file.name for file in album_files(album / "2024" / "0.png")] == ["0.png"]
