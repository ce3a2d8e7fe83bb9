"""The demonstration: its figures match its findings, and its page needs no other files."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from myvlm import MyVLM
from myvlm.display.page import highlighted
from myvlm.errors import NotWritableError
from myvlm.learning import teach
from myvlm.tinyworld.demo.page import page
from myvlm.tinyworld.demo.results import Answer, Demo
from myvlm.tinyworld.demo.run import run_demo
from tests.support.taught import COLOURS, around
from tests.support.teaching import interrupted_at_two

VOID = {"img", "meta", "br"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "page.html"


@pytest.fixture(scope="module")
def demo(vlm: MyVLM, place: Path) -> Demo:
    return run_demo(place, vlm=around(vlm), tests=6, progress=False)


@pytest.mark.slow
def test_it_learns_and_names_and_leaves_the_rest_alone(demo: Demo) -> None:
    figures = demo.figures
    assert (figures.said.of, figures.said_wrongly.of) == (6, 12)
    assert figures.said.hits >= 5
    assert figures.said_wrongly.hits <= 2
    assert figures.plain_identical.of >= 10
    assert figures.plain_identical.hits == figures.plain_identical.of
    assert 1_000 < figures.concept_bytes < 100_000
    assert figures.said_wrongly.hits == sum(
        t.says(demo.identifier) for t in demo.trials if t.kind != "present"
    )
    assert figures.said.hits == sum(t.says(demo.identifier) for t in demo.trials if t.kind == "present")
    assert [len(own) for own in demo.captions] == [5, 5, 5, 5]
    assert [one.question.startswith("what colour") for one in demo.answers].count(True) == 1


def test_the_users_library_is_not_touched(vlm: MyVLM, tmp_path: Path) -> None:
    own = around(vlm)
    with pytest.raises(NotWritableError, match="nowhere"):
        run_demo(tmp_path / "nowhere" / "page.html", vlm=own, progress=False)
    with pytest.raises(NotWritableError, match="a folder"):
        run_demo(tmp_path, vlm=own, progress=False)
    assert len(own.concepts) == 0
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_it_learns_ends_it_without_a_page(
    vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teach, "learning_progress", interrupted_at_two)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path / "page.html", vlm=around(vlm, encoder=COLOURS), tests=1, progress=False)
    assert list(tmp_path.iterdir()) == []


class Page(HTMLParser):
    """Collects the tags of a page and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(demo: Demo, place: Path) -> None:
    text = place.read_text(encoding="utf-8")
    assert list(place.parent.iterdir()) == [place]
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    assert len(parsed.images) >= 4 + 6 + 4 + 2 + 1
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in parsed.images)
    assert all(image["alt"] for image in parsed.images)
    links = [one for one in parsed.addresses if not one.startswith("data:")]
    assert links == ["https://arxiv.org/abs/2403.14599"]
    assert not re.search(r"@import|url\(|<script|\$\w", text)
    assert len(text) < 3_000_000
    for share in (demo.figures.said, demo.figures.said_wrongly, demo.figures.plain_identical):
        assert f"<b>{share}</b>" in text
    assert text.count(f"<mark>{demo.identifier}</mark>") > 20
    assert 'class="box"' in text


def test_every_text_is_escaped(demo: Demo) -> None:
    evil = '<script>alert("x")</script>'
    spoiled = replace(
        demo,
        identifier=evil,
        category=evil,
        captions=((evil,),) * 4,
        answers=(Answer(evil, evil, evil),),
        trials=tuple(
            replace(t, plain=replace(t.plain, text=evil), personal=replace(t.personal, text=evil))
            for t in demo.trials
        ),
    )
    assert "<script" not in page(spoiled)
    assert "&lt;script&gt;" in page(spoiled)


def test_only_the_word_itself_is_marked() -> None:
    assert highlighted("Sks, not asks", "sks") == "<mark>Sks</mark>, not asks"
