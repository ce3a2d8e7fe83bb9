"""Display of results: boxes at their places, escaped text, short reprs."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from myvlm import AttentionMap, Detection, LearnSettings, Location, Replies, Reply
from myvlm.display.page import emphasised, escaped, grid, table
from myvlm.display.pictures import COLOURS, Mark, data_url, marked
from myvlm.results import MOST_REPLIES, MOST_WRITTEN

WHITE = Image.new("RGB", (100, 50), "white")
SCRIPT = "<script>alert(1)</script>"


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{page}</div>")


def shown(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in found]


def test_each_box_has_its_place_and_a_colour_of_its_own() -> None:
    boxes = [Mark((10, 10, 30, 40), "one", 0), Mark((60, 10, 90, 40), "two", 2)]
    picture = marked(WHITE, boxes, at_least=100)
    assert picture.size == (200, 100)
    assert picture.getpixel((60, 50)) == COLOURS[0]
    assert picture.getpixel((180, 50)) == COLOURS[2]
    assert picture.getpixel((90, 50)) == (255, 255, 255)
    assert WHITE.getpixel((30, 40)) == (255, 255, 255), "the picture itself is as it was"


def test_a_photo_is_sent_as_jpeg_and_a_small_picture_as_it_is() -> None:
    photo = Image.effect_noise((2000, 1500), 60).convert("RGB")
    small = Image.effect_noise((96, 96), 60).convert("RGB")
    assert data_url(photo, at_most=640).startswith("data:image/jpeg")
    assert len(data_url(photo, at_most=640)) < 400_000
    [again] = shown(f'src="{data_url(small)}"')
    assert np.array_equal(again, small)


def test_a_reply_shows_who_is_where_in_one_colour_in_words_and_picture() -> None:
    detections = [
        Detection("Bo", 0.9, True, (10.0, 10.0, 30.0, 40.0)),
        Detection("Rex", 0.2, False, None),
        Detection("Mia", 0.6, True, (60.0, 10.0, 90.0, 40.0), unsure=True),
    ]
    page = Reply(f"Bo sees Mia {SCRIPT}", detections, WHITE)._repr_html_()
    assert "<script" not in page
    words = "".join(parsed(page).itertext())
    assert SCRIPT in words
    assert "Bo 90%" in words
    assert "Mia 60%, unsure" in words
    assert "Rex" not in words
    [picture] = shown(page)
    scale = picture.width / WHITE.width
    for column, colour in ((30, COLOURS[0]), (90, COLOURS[2])):
        assert picture.getpixel((round(column * scale), round(35 * scale))) == colour
        assert f"rgb({','.join(map(str, colour))})" in page


def test_replies_are_a_list_that_a_notebook_shows_as_a_grid() -> None:
    one = Reply("a mug", (), WHITE)
    many = Replies([one] * (MOST_REPLIES + 5))
    assert isinstance(many, list)
    assert many == [one] * (MOST_REPLIES + 5)
    assert isinstance(many[:3], Replies)
    assert many[3] is one
    page = many._repr_html_()
    assert len(shown(page)) == MOST_REPLIES
    assert "and 5 more" in page
    assert repr(many[:2]) == repr([one, one])
    assert repr(many).count("Reply(") == MOST_WRITTEN
    assert "55 more" in repr(many)


def test_a_reply_whose_file_is_gone_says_so_and_the_others_are_shown(tmp_path: Path) -> None:
    WHITE.save(tmp_path / "there.png")
    replies = Replies(Reply("a mug", (), tmp_path / name) for name in ("there.png", "gone.png"))
    page = replies._repr_html_()
    assert len(shown(page)) == 1
    assert "gone.png" in " ".join(parsed(page).itertext())


def test_texts_are_short() -> None:
    values = np.zeros((2, 4), np.float32)
    values[1, 3] = 1
    looks = AttentionMap(values, WHITE, "sks", (0.0, 0.0, 100.0, 50.0))
    assert repr(looks) == "AttentionMap('sks', 2 × 4, peak at (88, 38))"
    assert repr(Location((1.2, 2.0, 3.0, 4.0), "head", "", WHITE)) == "Location(1, 2, 3, 4, by the head)"
    assert repr(Location(None, None, "", WHITE)) == "Location(not found)"
    assert repr(Location(None, None, "", WHITE, (3.0, 4.0))) == "Location(at (3, 4), by the model)"


def test_settings_say_what_differs_and_a_notebook_all() -> None:
    settings = LearnSettings(rows=4, steps="auto")
    assert repr(settings) == "LearnSettings(rows=4, steps='auto')"
    assert eval(repr(settings)) == settings
    page = settings._repr_html_()
    assert page.count("<tr>") == len(LearnSettings.model_fields) + 1
    assert "instead of 1" in page


def test_an_attention_map_draws_into_axes_in_pixels_of_the_picture() -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="pip install matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    looks = AttentionMap(np.eye(2, dtype=np.float32) / 2, WHITE, "sks", (25.0, 0.0, 75.0, 50.0))
    figure, axes = pyplot.subplots()
    assert looks.plot(axes) is axes
    picture, heat = axes.images
    assert heat.get_extent() == [25.0, 75.0, 50.0, 0.0]
    assert np.array_equal(heat.get_array(), looks.values)
    assert picture.get_array().shape == (50, 100, 3)
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.0, 100.0), (50.0, 0.0))
    assert looks.plot() is not axes
    pyplot.close("all")
    assert figure is axes.figure


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.pyplot", None)
    looks = AttentionMap(np.ones((1, 1), np.float32), WHITE, "sks", (0.0, 0.0, 100.0, 50.0))
    with pytest.raises(ImportError) as raised:
        looks.plot()
    assert 'pip install "matplotlib"' in str(raised.value)


def test_pieces_escape_what_is_given() -> None:
    for page in (table([[SCRIPT]], heads=[SCRIPT]), grid([SCRIPT]), emphasised(SCRIPT, {"alert": 0})):
        assert "<script" not in page
        assert "alert" in " ".join(parsed(page).itertext())
    assert escaped(escaped("<")) == "&lt;"
    assert table([["a"]])._repr_html_() == table([["a"]])
