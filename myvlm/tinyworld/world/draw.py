"""Draw a scene with Pillow at twice its size and reduce it, together with a map of which object is where."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from myvlm.tinyworld.world.places import RGB, draw_place
from myvlm.tinyworld.world.scenes import SIZE, Scene
from myvlm.tinyworld.world.things import thing_tile

SCALE = 2


def draw_scene(scene: Scene) -> Image.Image:
    """Draw the picture of a scene, `SIZE` × `SIZE` RGB."""
    return draw_with_labels(scene)[0]


def draw_with_labels(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """Return the picture and, `SIZE/4` × `SIZE/4`, the number (from 1) of the object at each spot, else 0."""
    random = Random(scene.seed)
    side = SIZE * SCALE
    picture = Image.new("RGB", (side, side))
    draw_place(scene.place, ImageDraw.Draw(picture), side, random)
    picture = _draw_weather(scene.weather, picture, random)
    labels = Image.new("L", (side, side), 0)
    order = sorted(range(len(scene.things)), key=lambda i: scene.things[i].box[3])
    for number in order:
        thing = scene.things[number]
        left, top, right, _ = (round(v * SCALE) for v in thing.box)
        tile = thing_tile(thing.look).resize((right - left,) * 2, Image.Resampling.BILINEAR)
        tile = tile.rotate(thing.turn, Image.Resampling.BILINEAR)
        picture.paste(tile, (left, top), tile)
        labels.paste(number + 1, (left, top), tile.getchannel("A").point(lambda a: 255 if a > 127 else 0))
    if scene.weather in _HAZE:  # a little on the objects too, with their colours still recognizable
        picture = _tint(picture, scene.weather, 0.16)
    picture = ImageEnhance.Brightness(picture).enhance(scene.light)
    small = picture.resize((SIZE, SIZE), Image.Resampling.BOX)
    return small, np.asarray(labels.resize((SIZE // 4, SIZE // 4), Image.Resampling.NEAREST))


def _draw_weather(weather: str, picture: Image.Image, random: Random) -> Image.Image:
    side = picture.width
    if weather in _HAZE:
        picture = _tint(picture, weather, 0.4)
    draw = ImageDraw.Draw(picture)
    corner = random.choice((6, side - 40))
    if weather == "sun":
        draw.ellipse((corner, 6, corner + 34, 40), fill=(255, 232, 60), outline=(255, 170, 0), width=4)
    elif weather == "night":
        draw.ellipse((corner, 6, corner + 28, 34), fill=(245, 245, 215))
        draw.ellipse((corner + 9, 3, corner + 35, 29), fill=(60, 70, 110))
    elif weather == "rain":
        for _ in range(60):
            x, y = random.randrange(side), random.randrange(side)
            draw.line((x, y, x - 5, y + 14), fill=(90, 120, 190), width=2)
    elif weather == "snow":
        for _ in range(70):
            x, y = random.randrange(side), random.randrange(side)
            draw.ellipse((x, y, x + 5, y + 5), fill="white")
    return picture


_HAZE: dict[str, RGB] = {"night": (8, 12, 60), "fog": (225, 228, 230)}


def _tint(picture: Image.Image, weather: str, amount: float) -> Image.Image:
    return Image.blend(picture, Image.new("RGB", picture.size, _HAZE[weather]), amount)
