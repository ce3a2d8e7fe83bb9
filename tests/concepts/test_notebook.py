"""What a concept and a library look like in a notebook: small, escaped, no dump of numbers."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from myvlm import Concept, ConceptLibrary, MyVLM
from myvlm.concepts.notebook import MOST_ROWS
from myvlm.display.plots import scores_plot
from myvlm.tinyworld import FewShot
from tests.support.taught import Taught


def parsed(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{page}</div>")


def words(page: str) -> str:
    return " ".join(parsed(page).itertext())


def test_a_learned_concept_tells_what_it_is_and_how_sure_its_head_was(taught: Taught) -> None:
    page, (meta, _) = taught.concept._repr_html_(), taught.concept.head.state()
    assert len(page) < 5000
    said = words(page)
    for expected in (taught.word, taught.kit.category, "tinyworld/llava", meta.encoder):
        assert expected in said
    dots = list(parsed(page).iter("circle"))
    assert len(dots) == len(meta.figures["left_out_scores"])
    assert len(repr(taught.concept)) < 120


def test_a_concept_that_was_just_learned_shows_its_photos_and_where_the_thing_is(
    quick: MyVLM, kit: FewShot, tmp_path: Path
) -> None:
    concept = quick.learn(
        kit.identifier, kit.photos(), category=kit.category, captions=kit.captions(),
        settings={"steps": 1}, progress=False,
    )  # fmt: skip
    assert [box for _, box in concept.thumbnails] == concept.head.boxes_
    page = concept._repr_html_()
    assert len(list(parsed(page).iter("img"))) == len(kit.photos()) == 4
    assert "4 photos" in words(page)
    assert len(repr(concept)) < 120
    folder = concept.save(tmp_path / "mug")
    assert not [one for one in folder.rglob("*") if one.suffix in (".png", ".jpg")], "they are never saved"
    assert not list(parsed(Concept.load(folder)._repr_html_()).iter("img"))
    quick.concepts.remove(kit.identifier, erase=True)
    assert concept.thumbnails == []


def test_a_card_says_what_a_concept_was_learned_from_and_how_that_ended(concept: Concept) -> None:
    recipe = {
        "captions": [["sks there", "a sks"], ["sks here"], ["my sks"]],
        "captions_by": "model",
        "questions": [[["Where is sks?", "there"], ["What?", "a mug"]], [["Who?", "nobody"]]],
        "photos": ["1.jpg", "2.jpg", "3.jpg"],
    }
    figures = {"steps": 20, "cross_entropy": 0.456, "said": 0.75, "interrupted": True}
    [(name, embedding)] = concept.embeddings.items()
    embeddings = {name: dataclasses.replace(embedding, figures=figures)}
    learned = dataclasses.replace(concept, recipe=recipe, embeddings=embeddings)
    card = " ".join(words(learned._repr_html_()).split())
    assert "3 photos captions that the model wrote itself: sks there / a sks / sks here … (4)" in card
    assert "3 question/answer pairs" in card
    assert f"{name}: 20 steps, loss 0.46, named in 75% of held-out captions, stopped early by Ctrl-C" in card


def test_a_card_says_whom_the_concept_is_taken_for(quick: MyVLM, kit: FewShot) -> None:
    def learn(word: str) -> Concept:
        captions = [[text.replace(kit.identifier, word) for text in own] for own in kit.captions()]
        return quick.learn(
            word, kit.photos(), category=kit.category, captions=captions,
            settings={"steps": 1, "views": 1}, progress=False,
        )  # fmt: skip

    first = learn("sks")
    assert "taken for" not in words(first._repr_html_())
    second = learn("ohwx")
    assert "taken for ohwx (" in " ".join(words(first._repr_html_()).split())
    assert "taken for sks (" in " ".join(words(second._repr_html_()).split())
    ConceptLibrary([first])  # one that is gone at once: that which is left still holds it
    gc.collect()
    assert "taken for ohwx (" in " ".join(words(first._repr_html_()).split())
    quick.concepts.remove("sks")
    assert "taken for" not in words(first._repr_html_())
    assert "taken for" not in words(second._repr_html_())


def test_photos_that_were_put_beside_a_concept_are_shown(concept: Concept, tmp_path: Path) -> None:
    folder = concept.save(tmp_path / "mug", include_photos=Image.new("RGB", (8, 8)))
    assert len(list(parsed(Concept.load(folder)._repr_html_()).iter("img"))) == 1
    (folder / "photos" / "1.png").write_bytes(b"no picture")
    assert not list(parsed(Concept.load(folder)._repr_html_()).iter("img"))


def test_what_the_user_wrote_cannot_become_markup(concept: Concept) -> None:
    evil = dataclasses.replace(concept, recipe={"captions": [["<script>alert(1)</script> sks"]]})
    assert "<script>" not in evil._repr_html_()
    assert "<script>alert(1)</script>" in words(evil._repr_html_())


def test_dots_stand_right_of_the_line_where_scores_are_above_the_threshold() -> None:
    plot = parsed(scores_plot([2.0, 4.0], 3.0, -1.0))
    low, high = (float(dot.attrib["cx"]) for dot in plot.iter("circle"))
    line = float(next(plot.iter("text")).attrib["x"])
    assert 20 < low < line < high <= 300
    assert len(list(parsed(scores_plot([1.0], 1.0)).iter("circle"))) == 1


def test_a_library_is_a_table_and_a_long_one_is_cut(concept: Concept, saved: Path) -> None:
    assert "No concepts" in ConceptLibrary()._repr_html_()
    library = ConceptLibrary([Concept.load(saved)])
    assert [*words(library._repr_html_()).split()][:2] == ["concept", "is"]
    assert str(saved) in words(library._repr_html_())
    many = ConceptLibrary(
        dataclasses.replace(concept, identifier=f"sks{n}", spoken=f"sks{n}") for n in range(MOST_ROWS + 2)
    )
    page = many._repr_html_()
    assert page.count("<tr>") == MOST_ROWS + 1
    assert "and 2 more" in page
    assert repr(many).endswith(f"sks{MOST_ROWS - 1}, … 2 more)")
