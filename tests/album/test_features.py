"""Cached features of an album's photos: for a new concept the encoder only runs on photos it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myvlm import MyVLM
from myvlm.album import features as kept_features
from myvlm.album.features import FeatureCache, tidy_features
from myvlm.album.journal import Journal, reader_digest
from myvlm.album.page import AlbumFiles
from myvlm.album.reading import read_album, unread
from myvlm.files.photos import album_files
from myvlm.heads.features import count_large_windows, forget_pictures, windows
from myvlm.images import load_images
from myvlm.tinyworld import sample_picture
from tests.support.fake_encoder import ColourEncoder


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (folder := tmp_path / "album").mkdir()
    for number in range(3):
        sample_picture(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def encoder() -> ColourEncoder:
    return ColourEncoder("fake/album")


def teach(vlm: MyVLM, encoder: ColourEncoder, word: str, number: int) -> None:
    vlm.introduce(word, [sample_picture(number)], category="mug", head_options={"encoder": encoder})


def read(vlm: MyVLM, album: Path) -> tuple[list[tuple[str, ...]], AlbumFiles]:
    """Who is in each photo, read by a process without memory of an earlier one."""
    forget_pictures()
    place = AlbumFiles(album.parent / "page.html")
    journal = Journal(place.journal, reader_digest(vlm, None))
    files = album_files(album)
    list(read_album(vlm, unread(files, journal, place), journal, place, prompt=None, batch=2))
    return [tuple(one.name for one in row.seen) for row in journal.rows(files)], place


def test_a_new_concept_is_looked_for_in_what_was_seen(
    fresh: MyVLM, encoder: ColourEncoder, album: Path
) -> None:
    read(fresh, album)
    assert not AlbumFiles(album.parent / "page.html").features.exists(), "no concept, no encoder"
    teach(fresh, encoder, "sks", 0)
    read(fresh, album)
    teach(fresh, encoder, "ohwx", 1)
    encoder.calls.clear()
    seen, place = read(fresh, album)
    asked = sum(encoder.calls)
    assert {"sks", "ohwx"} <= {name for names in seen for name in names}
    for file in (*place.features.rglob("*.npz"), place.journal):
        file.unlink()
    encoder.calls.clear()
    assert read(fresh, album)[0] == seen, "anew it finds the same"
    large = sum(count_large_windows(windows(*one.image.size)) for one in load_images(album_files(album)))
    assert asked <= sum(encoder.calls) - large, "no large window is looked at again"


@pytest.fixture
def place(fresh: MyVLM, encoder: ColourEncoder, album: Path) -> AlbumFiles:
    """The files of the album after it was read for one concept."""
    teach(fresh, encoder, "sks", 0)
    return read(fresh, album)[1]


def test_it_holds_features_and_no_pixels_and_goes_with_its_photo(place: AlbumFiles, album: Path) -> None:
    [folder] = place.features.iterdir()
    files = sorted(folder.glob("*.npz"))
    assert {file.stem for file in files} == {place.thumb(one).stem for one in album_files(album)}
    with np.load(files[0]) as one:
        assert sorted(one) == ["boxes", "digest", "features"]
        assert one["features"].dtype == np.float16
        assert one["features"].shape[1] == 125
        assert 10 <= len(one["boxes"]) == len(one["features"]) <= 48
    (gone := album / "2.png").unlink()
    (journal := Journal(place.journal, "")).tidy()
    tidy_features(place, journal.files)
    assert {one.stem for one in folder.glob("*.npz")} == {one.stem for one in files} - {
        place.thumb(gone).stem
    }


def test_of_other_pixels_other_weights_or_a_cut_file_nothing_is_believed(
    fresh: MyVLM, encoder: ColourEncoder, album: Path, place: AlbumFiles
) -> None:
    [folder] = place.features.iterdir()
    first, second, third = album_files(album)
    sample_picture(7).save(first)
    kept = folder / f"{place.thumb(second).stem}.npz"
    kept.write_bytes(kept.read_bytes()[:-200])
    store = FeatureCache(place, fresh.concepts)
    for file, known in ((first, False), (second, False), (third, True)):
        forget_pictures()
        [photo] = load_images(file)
        store.load_into_encoders(file, photo)
        encoder.calls.clear()
        fresh.concepts.recognise(photo)
        assert (encoder.calls == []) is known
    np.save(folder / "encoder.npy", np.load(folder / "encoder.npy")[::-1])
    FeatureCache(place, fresh.concepts)
    assert [one.name for one in folder.iterdir()] == ["encoder.npy"], "what other weights saw is deleted"


def test_there_is_a_bound(
    fresh: MyVLM, album: Path, place: AlbumFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(place.features.rglob("*.npz"))
    assert len(files) == 3
    room = sum(one.stat().st_size for one in place.features.rglob("*.*")) - 1
    monkeypatch.setattr(kept_features, "MAX_CACHE_BYTES", room)
    for file in (*files, place.journal):
        file.unlink()
    assert len(read(fresh, album)[0]) == 3
    kept = list(place.features.rglob("*.npz"))
    assert 1 <= len(kept) < 3
    assert sum(one.stat().st_size for one in kept) <= room


def test_a_process_that_fails_to_write_leaves_what_another_writes(
    place: AlbumFiles, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sorted(place.features.rglob("*.npz"))[0]
    [photo] = [one for one in load_images(album_files(album)) if kept_features._read(file, one)]
    stored = kept_features._read(file, photo)
    assert stored is not None
    file.unlink()
    savez = np.savez

    def on_a_full_disk(opened: Any, **arrays: Any) -> None:
        raise OSError("No space left on device")

    def while_another_fails(opened: Any, **arrays: Any) -> None:
        monkeypatch.setattr(np, "savez", on_a_full_disk)
        kept_features._write(file, photo, stored)
        savez(opened, **arrays)

    monkeypatch.setattr(np, "savez", while_another_fails)
    kept_features._write(file, photo, stored)
    again = kept_features._read(file, photo)
    assert again is not None
    assert again.boxes == stored.boxes


def test_what_another_process_writes_may_be_gone_when_it_is_counted(
    fresh: MyVLM, place: AlbumFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = place.features.iterdir()
    glob = Path.glob

    def late(self: Path, pattern: str) -> list[Path]:
        return [*glob(self, pattern), folder / "renamed.part"]

    whole = FeatureCache(place, fresh.concepts)._bytes
    monkeypatch.setattr(Path, "glob", late)
    assert FeatureCache(place, fresh.concepts)._bytes == whole > 0
