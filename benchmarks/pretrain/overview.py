"""`python -m benchmarks.pretrain.overview FILE CONCEPT`: the picture at the top of the README.

It shows the four photos of a concept, then the captions of unseen pictures: with the concept, the last of
them with another object of its category too, and of a look-alike.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from myvlm.api import MyVLM
from myvlm.display.pictures import MARK
from myvlm.results import Reply
from myvlm.text import contains_word
from myvlm.tinyworld.fewshot import few_shot, pictures

SIDE, GAP, LINE = 192, 16, 18
INK = (40, 40, 40)


def main(
    out: Annotated[Path, typer.Argument(help="PNG file to write.")],
    concept: Annotated[Path, typer.Argument(help="Concept that was learned from the photos of this user.")],
    number: Annotated[int, typer.Option(help="Which user of the seed.")] = 0,
    shown: Annotated[str, typer.Option(help="Which two of the unseen pictures, from 0.")] = "1,2",
) -> None:
    """Caption the unseen pictures and draw them below the photos."""
    kit = few_shot(number)
    vlm = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    vlm.concepts.add(concept)
    unseen = [*(kit.present[int(place)] for place in shown.split(",")), kit.crowd[0], kit.look_alike[0]]
    draw_overview(kit.photos(), vlm.caption(pictures(unseen)), kit.identifier).save(out)


def draw_overview(photos: list[Image.Image], replies: list[Reply], identifier: str) -> Image.Image:
    """Two rows of pictures, the second with boxes and captions; captions with the name are coloured."""
    columns = max(len(photos), len(replies))
    below = GAP + 24
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), 2 * (below + SIDE) + 6 * LINE), "white")
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    second = below + SIDE + GAP
    for top, title in (
        (GAP - 6, f'four photos teach "{identifier}"'),
        (
            second - 6,
            "unseen pictures: what the frozen model says with the concept (the last is a look-alike alone)",
        ),
    ):
        draw.text((GAP, top), title, fill="black", font=ImageFont.load_default(18))
    for column, photo in enumerate(photos):
        sheet.paste(photo.resize((SIDE, SIDE)), (GAP + column * (SIDE + GAP), below - 6))
    for column, reply in enumerate(replies):
        left, top = GAP + column * (SIDE + GAP), second + below - GAP - 6
        sheet.paste(reply.image.resize((SIDE, SIDE)), (left, top))
        scale = SIDE / reply.image.width
        for box in (seen.box for seen in reply.detections if seen.box):
            corners = [scale * edge + (left, top)[place % 2] for place, edge in enumerate(box)]
            draw.rectangle(corners, outline=MARK)
        ink = MARK if contains_word(reply.text, identifier) else INK
        for line, text in enumerate(textwrap.wrap(reply.text, 28)):
            draw.text((left, top + SIDE + 6 + line * LINE), text, fill=ink, font=small)
    return sheet


if __name__ == "__main__":
    typer.run(main)
