"""Draw the twelve categories in every colour, pattern and accent, upright on a transparent tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from myvlm.tinyworld.world.scenes import Accent, Appearance

TILE = 96
"""Side in pixels of the tile that an object is drawn on before it is scaled, turned and pasted."""

RGB = tuple[int, int, int]

INK: RGB = (25, 22, 28)
SKIN: RGB = (232, 190, 155)
PAINT: dict[str, RGB] = {
    "red": (208, 36, 38), "orange": (242, 130, 22), "yellow": (246, 218, 48), "green": (42, 150, 58),
    "blue": (38, 84, 208), "purple": (134, 52, 170), "white": (244, 244, 244), "black": (48, 48, 54),
}  # fmt: skip
SECOND: dict[str, RGB] = {
    "red": (255, 214, 210), "orange": (110, 50, 10), "yellow": (150, 95, 10), "green": (205, 245, 180),
    "blue": (190, 220, 255), "purple": (235, 205, 250), "white": (130, 130, 140), "black": (190, 190, 195),
}  # fmt: skip
BADGE: dict[str, RGB] = {
    "gold": (226, 164, 0), "crimson": (205, 0, 60), "teal": (0, 150, 140), "indigo": (64, 30, 160),
}  # fmt: skip


@lru_cache(maxsize=2048)
def thing_tile(look: Appearance) -> Image.Image:
    """Draw an appearance upright on a transparent tile."""
    return _THINGS[look.category](_Brush(look))


class _Brush:
    """Draws one object on a unit square: `body` in its colour and pattern, `part` in one paint."""

    def __init__(self, look: Appearance) -> None:
        self.look = look
        self.tile = Image.new("RGBA", (TILE, TILE), (0, 0, 0, 0))
        self.fabric = _fabric(look.colour, look.pattern)
        self.shade = tuple(int(c * 0.72) for c in PAINT[look.colour])

    def body(self, kind: str, *xy: float) -> None:
        """Fill a shape (`ellipse`, `rectangle` or `polygon`, unit coordinates) with the pattern."""
        mask = Image.new("L", (TILE, TILE), 0)
        points = [v * TILE for v in xy]
        getattr(ImageDraw.Draw(mask), kind)(points, fill=255)
        self.tile.paste(self.fabric, (0, 0), mask)
        self.part(kind, *xy, fill=None)

    def part(self, kind: str, *xy: float, fill: RGB | tuple[int, ...] | None, width: int = 3) -> None:
        points = [v * TILE for v in xy]
        getattr(ImageDraw.Draw(self.tile), kind)(points, fill=fill, outline=INK, width=width)

    def stroke(self, *xy: float, fill: RGB | tuple[int, ...], width: int) -> None:
        ImageDraw.Draw(self.tile).line([v * TILE for v in xy], fill=fill, width=width)

    def ring(self, *xy: float, width: int = 9) -> None:
        draw, points = ImageDraw.Draw(self.tile), [v * TILE for v in xy]
        draw.ellipse(points, outline=INK, width=width)
        inner = [points[0] + 2, points[1] + 2, points[2] - 2, points[3] - 2]
        draw.ellipse(inner, outline=(*self.shade, 255), width=width - 4)

    def finish(self, x: float, y: float) -> Image.Image:
        """Add the accent, if there is one, centred at (x, y), and return the tile."""
        if self.look.accent:
            _draw_badge(self.tile, self.look.accent, x * TILE, y * TILE)
        return self.tile


def _fabric(colour: str, pattern: str) -> Image.Image:
    fabric = Image.new("RGB", (TILE, TILE), PAINT[colour])
    draw, second = ImageDraw.Draw(fabric), SECOND[colour]
    if pattern == "striped":
        for y in range(4, TILE, 19):
            draw.rectangle((0, y, TILE, y + 8), fill=second)
    elif pattern == "dotted":
        for row, y in enumerate(range(2, TILE, 16)):
            for x in range(0 if row % 2 else 9, TILE, 18):
                draw.ellipse((x, y, x + 9, y + 9), fill=second)
    elif pattern == "checked":
        for row, y in enumerate(range(0, TILE, 14)):
            for x in range(0 if row % 2 else 14, TILE, 28):
                draw.rectangle((x, y, x + 13, y + 13), fill=second)
    return fabric


def _draw_badge(tile: Image.Image, accent: Accent, x: float, y: float) -> None:
    draw, paint, r = ImageDraw.Draw(tile), BADGE[accent.colour], 17
    draw.ellipse((x - r, y - r, x + r, y + r), fill="white", outline=INK, width=2)
    if accent.shape == "star":
        angles = np.arange(10) * np.pi / 5 - np.pi / 2
        radii = np.where(np.arange(10) % 2, 6, 15)
        corners = zip(x + radii * np.cos(angles), y + radii * np.sin(angles), strict=True)
        draw.polygon(list(corners), fill=paint)
    elif accent.shape == "heart":
        draw.ellipse((x - 12, y - 10, x, y + 2), fill=paint)
        draw.ellipse((x, y - 10, x + 12, y + 2), fill=paint)
        draw.polygon([(x - 12, y - 2), (x + 12, y - 2), (x, y + 13)], fill=paint)
    elif accent.shape == "ring":
        draw.ellipse((x - 12, y - 12, x + 12, y + 12), outline=paint, width=7)
    else:
        draw.rectangle((x - 4, y - 12, x + 4, y + 12), fill=paint)
        draw.rectangle((x - 12, y - 4, x + 12, y + 4), fill=paint)


def _mug(b: _Brush) -> Image.Image:
    b.ring(0.55, 0.3, 0.98, 0.76)
    b.body("rectangle", 0.08, 0.12, 0.72, 0.98)
    b.part("ellipse", 0.08, 0.04, 0.72, 0.22, fill=b.shade)
    return b.finish(0.4, 0.6)


def _teapot(b: _Brush) -> Image.Image:
    b.ring(0.66, 0.32, 0.99, 0.82)
    b.part("polygon", 0.3, 0.75, 0.01, 0.3, 0.1, 0.25, 0.36, 0.55, fill=b.shade)
    b.body("ellipse", 0.14, 0.26, 0.84, 0.98)
    b.part("ellipse", 0.3, 0.2, 0.68, 0.36, fill=b.shade)
    b.part("ellipse", 0.43, 0.1, 0.55, 0.22, fill=b.shade)
    return b.finish(0.49, 0.66)


def _vase(b: _Brush) -> Image.Image:
    right_side = (0.66, 0.02, 0.6, 0.24, 0.88, 0.56, 0.66, 0.98)
    b.body("polygon", 0.34, 0.02, *right_side, 0.34, 0.98, 0.12, 0.56, 0.4, 0.24)
    return b.finish(0.5, 0.6)


def _lamp(b: _Brush) -> Image.Image:
    b.part("rectangle", 0.46, 0.6, 0.54, 0.92, fill=(90, 80, 70))
    b.part("ellipse", 0.25, 0.86, 0.75, 0.99, fill=(90, 80, 70))
    b.body("polygon", 0.3, 0.02, 0.7, 0.02, 0.98, 0.64, 0.02, 0.64)
    return b.finish(0.5, 0.38)


def _chair(b: _Brush) -> Image.Image:
    for x in (0.14, 0.8):
        b.part("rectangle", x, 0.7, x + 0.08, 0.99, fill=(95, 65, 40))
    b.body("rectangle", 0.14, 0.02, 0.88, 0.62)
    b.part("rectangle", 0.04, 0.6, 0.96, 0.76, fill=b.shade)
    return b.finish(0.51, 0.32)


def _car(b: _Brush) -> Image.Image:
    b.part("polygon", 0.2, 0.45, 0.32, 0.2, 0.7, 0.2, 0.84, 0.45, fill=(200, 225, 240))
    b.body("polygon", 0.01, 0.44, 0.99, 0.44, 0.99, 0.86, 0.01, 0.86)
    for x in (0.12, 0.64):
        b.part("ellipse", x, 0.72, x + 0.26, 0.98, fill=(60, 60, 60), width=6)
    return b.finish(0.5, 0.62)


def _dog(b: _Brush) -> Image.Image:
    for x in (0.12, 0.24, 0.56, 0.68):
        b.part("rectangle", x, 0.7, x + 0.09, 0.99, fill=b.shade)
    b.stroke(0.1, 0.5, 0.02, 0.3, fill=INK, width=7)
    b.body("ellipse", 0.04, 0.36, 0.84, 0.86)
    b.part("ellipse", 0.6, 0.1, 0.98, 0.5, fill=b.shade)
    b.part("ellipse", 0.58, 0.12, 0.72, 0.5, fill=(95, 65, 45))
    b.part("ellipse", 0.9, 0.3, 0.99, 0.38, fill=INK)
    return b.finish(0.4, 0.6)


def _cat(b: _Brush) -> Image.Image:
    b.stroke(0.8, 0.9, 0.96, 0.7, 0.93, 0.5, fill=INK, width=8)
    b.body("ellipse", 0.14, 0.36, 0.86, 0.99)
    b.part("polygon", 0.26, 0.2, 0.24, 0.0, 0.44, 0.12, fill=b.shade)
    b.part("polygon", 0.74, 0.2, 0.76, 0.0, 0.56, 0.12, fill=b.shade)
    b.part("ellipse", 0.24, 0.06, 0.76, 0.46, fill=b.shade)
    for x in (0.36, 0.56):
        b.part("ellipse", x, 0.2, x + 0.09, 0.29, fill=(190, 230, 90), width=2)
    return b.finish(0.5, 0.7)


def _bird(b: _Brush) -> Image.Image:
    for x in (0.42, 0.56):
        b.stroke(x, 0.8, x, 0.99, fill=(240, 140, 0), width=5)
    b.part("polygon", 0.1, 0.42, 0.0, 0.75, 0.3, 0.7, fill=b.shade)
    b.part("polygon", 0.84, 0.22, 0.99, 0.3, 0.84, 0.38, fill=(250, 150, 0))
    b.body("ellipse", 0.08, 0.34, 0.86, 0.88)
    b.part("ellipse", 0.54, 0.06, 0.9, 0.44, fill=b.shade)
    b.part("ellipse", 0.7, 0.16, 0.77, 0.23, fill=(255, 255, 255), width=2)
    return b.finish(0.45, 0.62)


def _robot(b: _Brush) -> Image.Image:
    b.stroke(0.5, 0.0, 0.5, 0.1, fill=INK, width=5)
    b.part("rectangle", 0.3, 0.07, 0.7, 0.36, fill=(170, 178, 186))
    for x in (0.37, 0.54):
        b.part("rectangle", x, 0.15, x + 0.1, 0.25, fill=(250, 60, 60), width=2)
    for x in (0.02, 0.82):
        b.part("rectangle", x, 0.4, x + 0.16, 0.7, fill=(150, 158, 166))
    for x in (0.24, 0.6):
        b.part("rectangle", x, 0.8, x + 0.17, 0.99, fill=(150, 158, 166))
    b.body("rectangle", 0.17, 0.36, 0.83, 0.84)
    return b.finish(0.5, 0.6)


def _man(b: _Brush) -> Image.Image:
    for x in (0.28, 0.52):
        b.part("rectangle", x, 0.74, x + 0.2, 0.99, fill=(70, 70, 90))
    for x in (0.06, 0.82):
        b.part("rectangle", x, 0.36, x + 0.12, 0.68, fill=SKIN)
    b.body("rectangle", 0.18, 0.33, 0.82, 0.78)
    b.part("ellipse", 0.35, 0.03, 0.65, 0.36, fill=SKIN)
    b.part("rectangle", 0.35, 0.02, 0.65, 0.11, fill=(60, 40, 30))
    return b.finish(0.5, 0.57)


def _woman(b: _Brush) -> Image.Image:
    b.part("ellipse", 0.27, 0.0, 0.73, 0.46, fill=(150, 80, 30))
    for x in (0.36, 0.54):
        b.part("rectangle", x, 0.88, x + 0.1, 0.99, fill=SKIN)
    b.body("polygon", 0.36, 0.33, 0.64, 0.33, 0.95, 0.92, 0.05, 0.92)
    b.part("ellipse", 0.35, 0.05, 0.65, 0.36, fill=SKIN)
    return b.finish(0.5, 0.66)


_THINGS: dict[str, Callable[[_Brush], Image.Image]] = {
    "mug": _mug, "teapot": _teapot, "vase": _vase, "lamp": _lamp, "chair": _chair, "car": _car,
    "dog": _dog, "cat": _cat, "bird": _bird, "robot": _robot, "man": _man, "woman": _woman,
}  # fmt: skip
