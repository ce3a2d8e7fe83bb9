"""Boxes: each family's format is converted to pixels of the given picture; otherwise the head answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from myvlm import MyVLM
from myvlm.backbones import Backbone, backbone_for
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.boxes import iou
from myvlm.cli import app
from myvlm.errors import InputError, UnknownConceptError
from myvlm.heads import Detection
from myvlm.speaking.locating import resolve_location
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, around
from tests.support.tiny import tiny_llava
from tests.support.tiny_families import FAMILIES

# GLM's and PaliGemma's processors use a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

WIDE = (200, 100)
IMAGE = Image.new("RGB", WIDE)


@pytest.mark.parametrize(
    ("family", "asked", "said", "box"),
    [
        ("HumanVLM", "bounding box coordinate of sks", "[0.1, 0.2, 0.5, 1.0]", (20, 20, 100, 100)),
        ("HumanVLM", "", "sks is at [20, 30, 60, 90].", (20, 30, 60, 90)),
        ("Qwen2-VL", "Detect the bounding box of sks", "sks(250,100),(750,900)", (50, 10, 150, 90)),
        ("Qwen3-VL", "JSON", '```json\n[{"bbox_2d": [250, 100, 750, 900]}]\n```', (50, 10, 150, 90)),
        ("PaliGemma", "detect sks", "<loc0512><loc0256><loc1024><loc0768> sks", (50, 50, 150, 100)),
        ("MiniGPT-v2", "[refer] ", "{<25><10><75><90>}", (50, 10, 150, 90)),
        (
            "GLM-4.1V",
            "locate sks in the image",
            "It may be [0, 0, 9, 9].</think>It is <|begin_of_box|>[250, 100, 750, 900]<|end_of_box|>.",
            (50, 10, 150, 90),
        ),
    ],
)
def test_the_format_of_each_family_becomes_pixels(
    family: str, asked: str, said: str, box: tuple[float, ...]
) -> None:
    backbone = backbone_for(*FAMILIES[family]())
    assert asked in (backbone.refer("sks") or "")
    assert backbone.read_box(said, WIDE) == pytest.approx(box)
    assert backbone.read_box("I see no sks (1) here", WIDE) is None
    assert backbone.read_box(said.translate(str.maketrans("123456789", "000000000")), WIDE) is None


def test_qwen_2_5_counts_pixels_of_the_picture_as_it_was_resized() -> None:
    backbone = backbone_for(*FAMILIES["Qwen2.5-VL"]())
    size = (400, 100)  # more pixels than the processor's limit
    [features] = backbone.encode([Image.new("RGB", size)])
    _, height, width = (features.layout.inputs["image_grid_thw"][0] * 7).tolist()
    assert (width, height) != size
    said = f'{{"bbox_2d": [{width // 2}, 0, {width}, {height // 2}]}}'
    assert backbone.read_box(said, size) == pytest.approx((200, 0, 400, 50))


def test_a_box_is_of_the_part_that_the_model_sees(vlm: MyVLM) -> None:
    assert vlm.backbone.refer("ulmo") == "[refer] ulmo"
    # The processor crops the middle square of a wide picture.
    assert vlm.backbone.read_box("{ <0> <50> <50> <100> }", WIDE) == pytest.approx((50, 50, 100, 100))


def test_molmo_points_and_says_so() -> None:
    backbone = backbone_for(*FAMILIES["Molmo 2"]())
    said = '<points coords="1 1 308 305 2 752 377">curb ramp</points>'
    assert backbone.refer("sks") == "Point to sks."
    assert backbone.read_box(said, WIDE) is None
    assert backbone.read_point(said, WIDE) == pytest.approx((61.6, 30.5))
    assert backbone.read_point("There are none.", WIDE) is None
    seen = Detection("sks", 0.9, True, (1.0, 2.0, 3.0, 4.0))
    found = resolve_location(backbone, seen, said, IMAGE)
    assert (found.box, found.by, found.point) == (seen.box, "head", pytest.approx((61.6, 30.5)))


@pytest.mark.parametrize("family", ["LLaVA-1.5", "InternVL", "Idefics3"])
def test_a_family_that_was_not_taught_to_ground_says_so(family: str) -> None:
    backbone = backbone_for(*FAMILIES[family]())
    assert backbone.refer("sks") is None
    assert Backbone.read_box(backbone, "[0, 0, 1, 1]", WIDE) is None


def test_the_head_answers_where_the_model_says_no_box() -> None:
    backbone = backbone_for(*FAMILIES["PaliGemma"]())
    seen = Detection("sks", 0.9, True, (1.0, 2.0, 3.0, 4.0))
    unseen = Detection("sks", 0.1, False, None)
    talk, right = "no idea", "<loc0000><loc0000><loc0512><loc0512> sks"
    for detection, said, box, by in (
        (seen, right, (0.0, 0.0, 100.0, 50.0), "model"),
        (seen, talk, seen.box, "head"),
        (seen, "", seen.box, "head"),
        (Detection("sks", 0.9, True, None), talk, None, None),
        (unseen, "", None, None),
        (None, "", None, None),
    ):
        found = resolve_location(backbone, detection, said, IMAGE)
        assert (found.box, found.by, found.said) == (box, by, said)
        assert ("not found" in found._repr_html_()) == (box is None)


def test_a_llava_is_asked_only_if_its_vocabulary_has_the_task() -> None:
    assert LlavaBackbone(*tiny_llava()).refer("sks") is None


def test_locate_finds_the_thing_it_learned(fresh: MyVLM, taught: Taught, unchanged: None) -> None:
    fresh.concepts.add(taught.folder)
    right = 0
    for scene, picture in zip(taught.kit.present, pictures(taught.kit.present), strict=True):
        found = fresh.locate(picture, taught.word)
        thing = scene.find(taught.kit.look)
        assert thing is not None
        scale = picture.width / 96
        truth = tuple(edge * scale for edge in thing.box)
        right += found.box is not None and iou(found.box, truth) >= 0.5  # type: ignore[arg-type]
        assert found.by in ("model", "head", None)
    assert right >= len(taught.kit.present) / 2
    with fresh.generic():
        assert fresh.locate(picture, taught.word).box is None
    with pytest.raises(UnknownConceptError, match="nobody"):
        fresh.locate(picture, "nobody")
    for ask in (fresh.locate, fresh.attention):
        for many in ([picture, picture], taught.photos):
            with pytest.raises(InputError, match=r"(?s)one picture at a time.*[24] pictures"):
                ask(many, taught.word)  # type: ignore[arg-type]


def test_others_that_are_there_have_no_part_in_where_one_is(
    fresh: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = fresh.concepts.add(taught.folder)
    picture = pictures(taught.kit.present)[0]
    alone = fresh.locate(picture, taught.word)
    fresh.concepts.add(dataclasses.replace(known, identifier="ohwx", spoken="ohwx"))
    entered: list[int] = []
    generate = fresh.backbone.generate

    def counting(images: Any, prompts: Any, rows: Any, **how: Any) -> Any:
        entered.append(len(rows[0]))
        return generate(images, prompts, rows, **how)

    monkeypatch.setattr(fresh.backbone, "generate", counting)
    assert fresh.caption(picture).seen == (taught.word, "ohwx")
    assert fresh.locate(picture, taught.word).box == alone.box
    assert entered == [2, 1]


def test_the_command_shows_boxes(
    taught: Taught, vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MyVLM, "from_pretrained", lambda name, **options: around(vlm))
    for number, picture in enumerate(pictures([taught.kit.present[0], taught.kit.other[0]])):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"nothing")
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    words = ["locate", str(tmp_path), taught.word, "--concepts", str(taught.folder)]
    run = runner.invoke(app, [*words, "--json"])
    assert run.exit_code == 2  # one picture could not be read
    said = json.loads(run.stdout)
    assert (said["command"], said["identifier"]) == ("locate", taught.word)
    first, second, broken = said["pictures"]
    assert len(first["box"]) == 4
    assert first["by"] in ("model", "head")
    assert (second["box"], second["by"]) == (None, None)
    assert broken["error"]["kind"] == "ImageError"
    table = runner.invoke(app, [words[0], f"{tmp_path}/[01].png", *words[2:]])
    assert table.exit_code == 0, table.stderr
    assert "no box" in table.stdout
    wrong = runner.invoke(app, ["locate", str(tmp_path / "0.png"), str(tmp_path / "1.png")])
    assert wrong.exit_code == 2
    assert "identifier last" in wrong.stderr
