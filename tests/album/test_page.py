"""The page of an album: its data, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from myvlm.album.journal import Row, Seen
from myvlm.album.page import THUMB_SIDE, AlbumFiles, ShownConcept

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(not BROWSER, reason="needs a browser: apt install chromium")
CONCEPTS = (ShownConcept("Zoë", "woman", "face"), ShownConcept("sks", "mug", "object"))


@pytest.fixture
def place(tmp_path: Path) -> AlbumFiles:
    """300 photos, one of them broken and three of Zoë with the mug."""
    place = AlbumFiles(tmp_path / "my album.html")
    rows = []
    for number in range(300):
        file = tmp_path / "photos" / f"{number}.jpg"
        seen = (Seen(name="sks", probability=0.9, box=(10, 20, 30, 60), unsure=number == 8),)
        if number in (5, 7, 8):
            seen = (Seen(name="Zoë", probability=0.99), *seen)
        text = f"sks on a desk </script><b>{number}</b>" if number % 2 else "a robot"
        row = Row(
            file=file,
            stamp=(0, 0),
            by="",
            size=(100, 80),
            text=text,
            taken=f"{2000 + number // 30}:01:01 00:00:00",
        )
        rows.append(row.model_copy(update={"seen": seen if number % 2 or number == 8 else ()}))
        if number < 3:
            place.save_thumbnail(file, Image.new("RGB", (1000, 20), (200, 0, 0)))
    rows[9] = Row(file=rows[9].file, stamp=(0, 0), by="", error="9.jpg cannot be read")
    place.write(rows, CONCEPTS, title="Tom & Zoë")
    return place


def inline(page: Path) -> Any:
    found = re.search(r'id="album">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_holds_all_that_is_known_and_nothing_from_outside(place: AlbumFiles) -> None:
    text = place.page.read_text(encoding="utf-8")
    assert "<title>Tom &amp; Zoë</title>" in text
    assert not re.search(r'(?:src|href)="', text)
    assert "://" not in text
    album = inline(place.page)
    assert album["thumbs"] == "my%20album_files/thumbs/"
    assert len(album["photos"]) == 300
    name, href, label, caption, seen, taken, width, height, error = album["photos"][5]
    assert (place.thumbs / name).parent.is_dir()
    assert (href, label) == ("photos/5.jpg", "5.jpg")
    assert caption == "sks on a desk </script><b>5</b>"
    assert seen == [[0, 0.99, None], [1, 0.9, [0.1, 0.25, 0.2, 0.5]]]
    assert (taken, width, height, error) == ("2000:01:01 00:00:00", 100, 80, "")
    assert album["photos"][8][4][1][3] == 1  # unsure
    assert album["photos"][9][8] == "9.jpg cannot be read"
    assert len(list(place.thumbs.glob("*.jpg"))) == 3
    with Image.open(next(place.thumbs.glob("*.jpg"))) as small:
        assert small.size == (THUMB_SIDE, 8)


def shown(page: Path, state: str = "") -> str:
    """The page after a browser has built it, in the state given by its address."""
    assert BROWSER
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,800", "--dump-dom"]
    done = subprocess.run(
        [*words, page.as_uri() + state], capture_output=True, text=True, check=False, timeout=600
    )
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


@needs_browser
def test_a_browser_shows_what_is_asked_for(place: AlbumFiles) -> None:
    everything = shown(place.page)
    assert re.search(r'data-ready="\d+"', everything)
    assert ">300 photos<" in everything
    cards = re.findall(r'class="card"', everything)
    assert 10 < len(cards) < 60  # only those on the screen
    assert 'loading="lazy"' in everything
    assert "<b>1</b>" not in everything  # captions are escaped
    for state, count in (
        ("#who=Zo%C3%AB&who=sks", "3 of 300"),
        ("#q=zoe+desk", "2 of 300"),
        ("#is=broken", "1 of 300"),
        ("#is=unsure", "1 of 300"),
        ("#q=nothing", "0 of 300"),
    ):
        assert f">{count}<" in shown(place.page, state), state
    newest = re.search(r'class="card"[^>]*title="(\d+)\.jpg"', shown(place.page, "#sort=new"))
    assert newest
    assert newest[1] == "270"
    opened = shown(place.page, "#photo=7.jpg")
    assert "<dialog" in opened
    assert re.search(r"left: ?10%; ?top: ?25%; ?width: ?20%; ?height: ?50%", opened)
    assert 'class="box' in opened
