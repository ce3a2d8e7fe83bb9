"""The picture at the top of the README."""

from __future__ import annotations

from PIL import Image

from benchmarks.pretrain.overview import GAP, SIDE, draw_overview
from myvlm.display.pictures import MARK
from myvlm.heads import Detection
from myvlm.results import Reply


def test_it_shows_photos_boxes_and_captions() -> None:
    photos = [Image.new("RGB", (96, 96), "blue")] * 2
    seen = Detection("sks", 0.9, True, (24.0, 24.0, 72.0, 72.0))
    named = Reply("sks next to a dog", (seen,), Image.new("RGB", (96, 96), "green"))
    other = Reply("a dog", (), Image.new("RGB", (48, 48), "red"))
    alone = draw_overview(photos, [other], "sks")
    sheet = draw_overview(photos, [named, other], "sks")
    assert sheet.width == GAP + 2 * (SIDE + GAP)
    colours = {colour: count for count, colour in sheet.getcolors(1 << 16) or ()}
    assert colours[(0, 0, 255)] == 2 * SIDE**2
    assert colours[(255, 0, 0)] == SIDE**2
    inside = SIDE**2 - colours[(0, 128, 0)]
    assert 4 * (SIDE // 2 - 2) <= inside <= 4 * (SIDE // 2 + 2)  # only the box covers the picture
    marked = colours[MARK] - inside
    assert marked > 0  # the caption with the name is coloured
    assert MARK not in {colour for _, colour in alone.getcolors(1 << 16) or ()}
