"""Make pictures that show no concept, to count false names on.

    python benchmarks/strangers.py FOLDER [ROOT]
    MYVLM_STRANGERS=FOLDER MYVLM_PHOTOS=… python benchmarks/heads.py --photos

They are made from files of Debian packages, under the free licences in the packages' copyright files:
wallpapers, samples of OpenCV, and photographs of objects (stamps of Tux Paint), each pasted on a wallpaper.
These are some hundred pictures of at most 512 pixels. The packages must be installed, or unpacked below ROOT:

    apt-get install gnome-backgrounds mate-backgrounds lomiri-wallpapers plasma-workspace-wallpapers \\
        opencv-doc tuxpaint-stamps-default
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from myvlm.heads.objects.everyday import PHOTOS

SIDE = 512
WALLPAPERS = ("usr/share/backgrounds", "usr/share/wallpapers")
SAMPLES = "usr/share/doc/opencv-doc/examples/data"
STAMPS = "usr/share/tuxpaint/stamps"
PHOTOGRAPHED = (
    "animals", "clothes", "food", "hobbies", "household", "medical", "military", "plants", "sports",
    "vehicles",
)  # fmt: skip
"""Folders of stamps that are photographs; the others are drawings."""
SAME = 6.0
"""Wallpapers whose 8 × 8 thumbnails differ by less, in mean grey levels, are the same one at two sizes."""


def main(
    folder: Annotated[Path, typer.Argument(help="Where the pictures go.")],
    root: Annotated[Path, typer.Argument(help="Below which the packages' files are.")] = Path("/"),
) -> None:
    """Write the pictures, and print their number by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    papers = dict(wallpapers(root))
    made = {
        "plain": papers,
        "cv": {one.stem: small(one) for one in sorted((root / SAMPLES).glob("*.jp*g")) if large(one, 200)},
        "stamp": dict(upon(papers, root)),
    }
    for kind, pictures in made.items():
        for name, picture in pictures.items():
            picture.save(folder / f"{kind}-{name}.jpg", quality=92)
        print(kind, len(pictures))


def wallpapers(root: Path) -> Iterator[tuple[str, Image.Image]]:
    """Wallpapers without duplicates and without those among the everyday photographs shipped with myvlm."""
    shipped = [thumbnail(Image.open(one)) for one in PHOTOS.glob("*.jpg")]
    known = list(shipped)
    files = (one for place in WALLPAPERS for one in sorted((root / place).rglob("*")))
    for file in files:
        if file.suffix.lower() in (".jpg", ".jpeg", ".webp") and not file.is_symlink() and large(file, 300):
            picture = small(file)
            look = thumbnail(picture)
            if all(np.abs(look - other).mean() >= SAME for other in known):
                known.append(look)
                yield file.stem, picture


def upon(papers: dict[str, Image.Image], root: Path) -> Iterator[tuple[str, Image.Image]]:
    """Paste each object at a random place on a wallpaper, 0.35 to 0.75 of its shorter side in size."""
    rng, grounds = np.random.default_rng(0), list(papers.values())
    files = [
        file
        for kind in PHOTOGRAPHED
        for file in sorted((root / STAMPS / kind).rglob("*.png"))
        if "cartoon" not in str(file) and not file.stem.endswith(("_mirror", "_flip")) and large(file, 70)
    ]
    for number, file in enumerate(files):
        thing = Image.open(file).convert("RGBA")
        thing = thing.crop(thing.getchannel("A").getbbox())
        ground = grounds[number % len(grounds)].copy()
        share = float(rng.uniform(0.35, 0.75)) * min(ground.size) / max(thing.size)
        size = max(round(thing.width * share), 1), max(round(thing.height * share), 1)
        thing = thing.resize(size, Image.Resampling.LANCZOS)
        left = int(rng.integers(0, ground.width - thing.width + 1))
        top = int(rng.integers(0, ground.height - thing.height + 1))
        ground.paste(thing, (left, top), thing)
        yield f"{file.parent.name}-{file.stem}", ground


def small(file: Path) -> Image.Image:
    picture = Image.open(file).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def large(file: Path, least: int) -> bool:
    try:
        return min(Image.open(file).size) >= least
    except OSError:
        return False


def thumbnail(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L").resize((8, 8)), dtype=np.float32)


if __name__ == "__main__":
    typer.run(main)
