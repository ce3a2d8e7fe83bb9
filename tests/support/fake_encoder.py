"""An image encoder that encodes only colours, and scenes of coloured squares."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from myvlm.heads import ObjectHead
from myvlm.images import load_images

OTHERS = ("blue", "green", "yellow", "cyan", "magenta", "grey", "navy", "brown", "orange", "olive", "indigo")
RED = (255, 0, 0)


class ColourEncoder:
    """Encodes images as square roots of a 5 × 5 × 5 colour histogram, and only the word "red" as text."""

    def __init__(self, id: str = "fake/colour", *, reads: bool = False, bank: object = None) -> None:
        self.id = id
        self.reads = reads
        self.calls: list[int] = []
        self._bank = bank

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> npt.NDArray[np.float32]:
        self.calls.append(len(images))
        return np.stack([_histogram(image) for image in images])

    def encode_text(self, texts: Sequence[str]) -> npt.NDArray[np.float32] | None:
        if not self.reads:
            return None
        return np.stack(
            [_histogram(Image.new("RGB", (8, 8), RED if "red" in text else "grey")) for text in texts]
        )

    def bank(self) -> npt.NDArray[np.float32] | None:
        return self._bank  # type: ignore[return-value]

    def whitening(self) -> None:
        return None


def _histogram(image: Image.Image) -> npt.NDArray[np.float32]:
    levels = np.asarray(image.resize((32, 32))) // 52
    codes = levels[..., 0] * 25 + levels[..., 1] * 5 + levels[..., 2]
    roots = np.sqrt(np.bincount(codes.ravel(), minlength=125)) + 0.5
    return np.asarray(roots / np.linalg.norm(roots), dtype=np.float32)


def scene(
    seed: int, *, colour: object = RED, size: int = 160
) -> tuple[Image.Image, tuple[int, int, int, int] | None]:
    """Five squares on a pale ground and a square of that colour with a white core; also returns its box."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(int(level) for level in rng.integers(150, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        side = int(rng.integers(20, 50))
        left, top = (int(place) for place in rng.integers(0, size - side, 2))
        draw.rectangle([left, top, left + side, top + side], fill=OTHERS[int(rng.integers(len(OTHERS)))])
    if colour is None:
        return image, None
    side = int(rng.integers(30, 50))
    left, top = (int(place) for place in rng.integers(0, size - side, 2))
    draw.rectangle([left, top, left + side, top + side], fill=colour)  # type: ignore[arg-type]
    third = side // 3
    draw.rectangle([left + third, top + third, left + 2 * third, top + 2 * third], fill="white")
    return image, (left, top, left + side, top + side)


def scenes(first: int, count: int, colour: object = RED) -> list[Image.Image]:
    return [scene(seed, colour=colour)[0] for seed in range(first, first + count)]


def everyday_bank(count: int = 60) -> npt.NDArray[np.float32]:
    from myvlm.heads.features import features
    from myvlm.images import load_images

    pictures = features(ColourEncoder(), load_images(scenes(90_000, count, None)))
    return np.stack([picture.features for picture in pictures])


def raw_scores(head: ObjectHead, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
    """N scores of a head before calibration: present from `threshold_` on."""
    return head.gate([head]).raw(load_images(pictures))[0][:, 0]
