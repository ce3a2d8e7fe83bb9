"""Draw the ten places: sky or wall, ground, and the features that identify the place."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from PIL import ImageDraw

RGB = tuple[int, int, int]
Drawer = ImageDraw.ImageDraw


def draw_place(place: str, draw: Drawer, side: int, random: Random) -> None:
    """Draw a place over a whole picture of `side` × `side` pixels."""
    sky, ground, horizon = {
        "beach": ((135, 205, 235), (238, 214, 160), 0.5), "forest": ((150, 190, 140), (80, 100, 50), 0.55),
        "kitchen": ((250, 240, 215), (190, 150, 110), 0.6), "street": ((175, 190, 205), (95, 95, 100), 0.55),
        "desert": ((250, 215, 150), (225, 165, 90), 0.5), "bedroom": ((225, 195, 215), (150, 105, 85), 0.6),
        "garden": ((170, 215, 245), (110, 185, 80), 0.45), "office": ((215, 222, 228), (130, 140, 150), 0.6),
        "lake": ((180, 215, 235), (60, 120, 165), 0.45), "mountain": ((160, 190, 225), (140, 140, 130), 0.55),
    }[place]  # fmt: skip
    line = int(side * (horizon + random.uniform(-0.04, 0.04)))
    draw.rectangle((0, 0, side, line), fill=_vary(sky, random))
    draw.rectangle((0, line, side, side), fill=_vary(ground, random))
    _MOTIFS[place](draw, side, line, random)


def _beach(draw: Drawer, side: int, line: int, random: Random) -> None:
    draw.rectangle((0, line - side // 9, side, line), fill=(40, 120, 190))
    x = random.randrange(0, side)
    draw.polygon(
        [(x, line - side // 9), (x + 26, line - side // 9), (x + 13, line - side // 4)], fill="white"
    )
    for _ in range(6):
        x, y = random.randrange(side), random.randrange(line, side)
        draw.ellipse((x, y, x + 5, y + 3), fill=(205, 175, 120))


def _forest(draw: Drawer, side: int, line: int, random: Random) -> None:
    for x in range(random.randrange(-20, 0), side, 34):
        draw.rectangle((x + 12, line - 60, x + 20, line + 6), fill=(90, 60, 35))
        draw.ellipse((x - 6, line - 108, x + 38, line - 36), fill=(35, random.randrange(85, 110), 45))


def _kitchen(draw: Drawer, side: int, line: int, random: Random) -> None:
    step = 24
    for x in range(random.randrange(step), side, step):
        draw.line((x, 0, x, line), fill=(225, 205, 170), width=2)
    for y in range(0, line, step):
        draw.line((0, y, side, y), fill=(225, 205, 170), width=2)
    draw.rectangle((0, line - 8, side, line + 6), fill=(120, 85, 60))


def _street(draw: Drawer, side: int, line: int, random: Random) -> None:
    x = random.randrange(-30, 0)
    while x < side:
        width, height = random.randrange(34, 52), random.randrange(50, 95)
        draw.rectangle((x, line - height, x + width, line), fill=_vary((150, 105, 95), random, 20))
        for wy in range(line - height + 8, line - 10, 18):
            for wx in range(x + 7, x + width - 8, 14):
                draw.rectangle((wx, wy, wx + 6, wy + 9), fill=(235, 225, 170))
        x += width
    for x in range(0, side, 40):
        draw.rectangle((x, (line + side) // 2, x + 20, (line + side) // 2 + 5), fill="white")


def _desert(draw: Drawer, side: int, line: int, random: Random) -> None:
    x = random.randrange(-40, side // 2)
    draw.ellipse((x, line - 30, x + 150, line + 60), fill=(215, 150, 80))
    for x in (random.randrange(side), random.randrange(side)):
        draw.rectangle((x, line - 50, x + 10, line), fill=(60, 130, 70))
        draw.rectangle((x - 12, line - 32, x + 22, line - 25), fill=(60, 130, 70))


def _bedroom(draw: Drawer, side: int, line: int, random: Random) -> None:
    x = random.randrange(10, side - 70)
    draw.rectangle((x, 10, x + 56, 62), fill=(175, 215, 240), outline=(120, 80, 60), width=5)
    draw.line((x + 28, 10, x + 28, 62), fill=(120, 80, 60), width=4)
    draw.rectangle((0, line - 16, side, line + 22), fill=(250, 235, 240))
    draw.rectangle((0, line + 8, side, line + 24), fill=(190, 140, 170))


def _garden(draw: Drawer, side: int, line: int, random: Random) -> None:
    for x in range(random.randrange(8), side, 16):
        draw.rectangle((x, line - 26, x + 9, line + 4), fill=(250, 250, 240))
    for _ in range(16):
        x, y = random.randrange(side), random.randrange(line, side)
        draw.ellipse((x, y, x + 6, y + 6), fill=random.choice([(255, 120, 170), (255, 240, 120)]))


def _office(draw: Drawer, side: int, line: int, random: Random) -> None:
    x = random.randrange(0, side - 80)
    draw.rectangle((x, 16, x + 76, 60), fill=(250, 250, 252), outline=(110, 120, 130), width=4)
    for i, height in enumerate((12, 22, 17, 30)):
        draw.rectangle((x + 10 + 16 * i, 54 - height, x + 18 + 16 * i, 54), fill=(90, 140, 190))
    for y in range(line, side, 20):
        draw.line((0, y, side, y), fill=(115, 125, 135), width=2)


def _lake(draw: Drawer, side: int, line: int, random: Random) -> None:
    draw.ellipse((random.randrange(-80, 40), line - 40, side + 40, line + 40), fill=(95, 140, 95))
    draw.rectangle((0, line, side, side), fill=_vary((60, 120, 165), random))
    for _ in range(14):
        x, y = random.randrange(side), random.randrange(line, side)
        draw.arc((x, y, x + 22, y + 8), 180, 360, fill=(170, 210, 235), width=2)


def _mountain(draw: Drawer, side: int, line: int, random: Random) -> None:
    for x in (random.randrange(-60, 0), random.randrange(20, 80), random.randrange(90, 150)):
        peak = line - random.randrange(70, 100)
        draw.polygon([(x, line), (x + 55, peak), (x + 110, line)], fill=(105, 105, 120))
        draw.polygon([(x + 40, peak + 26), (x + 55, peak), (x + 70, peak + 26)], fill="white")


_MOTIFS: dict[str, Callable[[Drawer, int, int, Random], None]] = {
    "beach": _beach, "forest": _forest, "kitchen": _kitchen, "street": _street, "desert": _desert,
    "bedroom": _bedroom, "garden": _garden, "office": _office, "lake": _lake, "mountain": _mountain,
}  # fmt: skip


def _vary(colour: RGB, random: Random, amount: int = 10) -> RGB:
    red, green, blue = (min(255, max(0, c + random.randint(-amount, amount))) for c in colour)
    return red, green, blue
