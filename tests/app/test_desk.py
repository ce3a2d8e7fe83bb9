"""The actions of the page without the page: all or nothing, one error per picture, changes saved to disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from myvlm import MyVLM
from myvlm.app.desk import MOST_PICTURES, Desk
from myvlm.app.pointing import box_between, picture_with_corners
from myvlm.app.shown import concepts_html, error_html, replies_html
from myvlm.app.storage import CollectionStorage
from myvlm.errors import ConceptExistsError, InputError, NotWritableError, UnknownConceptError
from myvlm.tinyworld import FewShot


@pytest.fixture
def desk(quick: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(quick, "learn", partial(quick.learn, settings={"steps": 3, "views": 1}))
    return Desk(quick, CollectionStorage(tmp_path / "concepts"))


@pytest.fixture
def photos(kit: FewShot, tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{number}.png" for number in range(2)]
    for file, photo in zip(files, kit.photos(), strict=False):
        photo.save(file)
    return files


def test_what_is_taught_is_kept_renamed_and_put_aside(desk: Desk, photos: list[Path]) -> None:
    steps: list[int] = []
    desk.teach(
        " sks ",
        photos,
        category="mug ",
        captions="a sks .\n\na sks here .",
        show=lambda s: steps.append(s.step),
    )
    assert sorted(set(steps)) == [0, 1, 2, 3]
    [folder] = desk.storage.place.iterdir()
    assert desk.names == ["sks"]
    desk.rename("sks", "Gustav")
    assert desk.names == ["Gustav"]
    assert '"Gustav"' in (folder / "concept.json").read_text()
    assert ".removed" in desk.remove("Gustav", erase=False)
    assert desk.names == []
    assert not folder.exists()
    assert (desk.storage.place / ".removed" / folder.name / "concept.json").is_file()


def test_what_is_erased_is_gone(desk: Desk, photos: list[Path]) -> None:
    concept = desk.teach("sks", photos, category="mug", captions="a sks .\na sks .")
    assert concept.thumbnails
    desk.remove("sks", erase=True)
    assert [one for one in desk.storage.place.rglob("*") if one.is_file()] == []
    assert concept.thumbnails == []
    with pytest.raises(UnknownConceptError):
        desk.remove("sks", erase=True)


def test_what_cannot_be_kept_is_not_learned_and_leaves_nothing(
    desk: Desk, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.teach("sks", photos, category="mug", captions="a sks .\na sks .")
    with pytest.raises(ConceptExistsError):
        desk.teach("SKS", photos, category="mug", captions="a SKS .\na SKS .")

    def full(concept: object) -> None:
        raise NotWritableError("No.", got="a full disk", expected="room", fix="make some")

    monkeypatch.setattr(desk.storage, "save", full)
    with pytest.raises(NotWritableError):
        desk.teach("ohwx", photos, category="cup", captions="a ohwx .\na ohwx .")
    with pytest.raises(NotWritableError):
        desk.rename("sks", "Gustav")
    assert desk.names == ["sks"], "the page and the disk say the same"


def test_it_can_be_stopped_and_keeps_the_best_so_far(desk: Desk, photos: list[Path]) -> None:
    def show(state: object) -> None:
        if getattr(state, "step", 0) == 1:
            desk.stop()

    concept = desk.teach("sks", photos, category="mug", captions="a sks .\na sks .", show=show)
    [embedding] = concept.embeddings.values()
    assert embedding.figures["interrupted"] is True
    again = desk.teach("ohwx", photos, category="cup", captions="a ohwx .\na ohwx .")
    assert not any(one.figures.get("interrupted") for one in again.embeddings.values())


def test_a_broken_picture_is_said_by_its_name_and_the_others_go_on(desk: Desk, photos: list[Path]) -> None:
    broken = photos[0].with_name("broken.jpg")
    broken.write_bytes(photos[0].read_bytes()[:200])
    looks = desk.look([broken, *photos])
    assert [bool(one.fault) for one in looks] == [True, False, False]
    assert looks[0].fault.startswith("broken.jpg cannot be read")
    assert str(broken.parent) not in replies_html(looks)
    assert replies_html(looks).count("the plain model") == 2
    with pytest.raises(InputError, match="at most 24"):
        desk.look([photos[0]] * (MOST_PICTURES + 1))


def test_it_asks_where_there_is_a_question(desk: Desk, photos: list[Path]) -> None:
    [asked] = desk.look(photos[:1], "what is in the picture ?")
    assert asked.plain is not None
    assert asked.plain.text == str(desk.vlm.ask(photos[0], "what is in the picture ?"))


def test_what_users_write_cannot_become_markup(desk: Desk, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (32, 32)).save(evil)
    error = InputError("<script>", got="<script>", fix="<script>")
    for page in (replies_html(desk.look([evil])), error_html(error), concepts_html(desk.vlm.concepts)):
        assert "<script>" not in page
        assert "<img src=x" not in page


def test_a_persons_category_is_known_by_the_face_unless_something_else_is_chosen(
    desk: Desk, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def learn(identifier: str, images: object, *, kind: str, **rest: object) -> None:
        asked.append(kind)
        raise InputError("No.", got="", expected="", fix="")

    monkeypatch.setattr(desk.vlm, "learn", learn)
    for category, kind in (
        ("old woman", None),
        ("mug", None),
        ("mug", "face"),
        ("woman", "object"),
        ("", None),
    ):
        with pytest.raises(InputError):
            desk.teach("Anna", photos, category=category, kind=kind)
    assert asked == ["face", "object", "face", "object", "object"]


def test_two_clicks_are_a_box_whichever_corner_comes_first(tmp_path: Path) -> None:
    Image.new("RGB", (2000, 1000)).save(file := str(tmp_path / "wide.png"))
    shown, corners = picture_with_corners(file)
    assert shown is not None
    assert shown.size == (640, 320)
    assert (corners, box_between(file, corners)) == ((), None)
    dotted, corners = picture_with_corners(file, corners, (320, 160))
    assert dotted is not None
    assert dotted.getbbox() is not None, "what was clicked is seen"
    assert box_between(file, corners) is None
    boxed, corners = picture_with_corners(file, corners, (160, 32))
    assert box_between(file, corners) == (500.0, 100.0, 1000.0, 500.0)
    assert boxed is not None
    assert boxed.getpixel((160, 100)) != (0, 0, 0) == boxed.getpixel((240, 100))
    _, corners = picture_with_corners(file, corners, (0, 0))
    assert corners == ((0.0, 0.0),), "a third click begins anew"
    assert picture_with_corners(None) == picture_with_corners(str(tmp_path / "gone.png")) == (None, ())


def test_a_part_of_a_picture_can_be_corrected(
    desk: Desk, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.teach("sks", photos, category="mug", captions="a sks .\na sks .")
    box = box_between(str(photos[0]), ((0.5, 0.5), (0.0, 0.0)))
    desk.correct(photos[0], "sks", present=True, box=box)
    [said] = desk.vlm.concepts["sks"].head.known_examples().corrections
    assert said.box == box
