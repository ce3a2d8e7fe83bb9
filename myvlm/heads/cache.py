"""What an encoder saw in the last pictures, remembered by their pixels: `caption` then `ask` look once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from PIL import Image

from myvlm.images import LoadedImage

Seen = TypeVar("Seen")
Variant = TypeVar("Variant", bound=Hashable)


class PictureCache(Generic[Variant, Seen]):
    """For each encoder what it found in the last pictures; gone with the encoder.

    Args:
        pictures: how many are remembered for one encoder.
    """

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures
        self._by_encoder: WeakKeyDictionary[Any, OrderedDict[tuple[bytes, Variant], Seen]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def look_up(
        self,
        encoder: object,
        images: Sequence[LoadedImage],
        variants: Sequence[Variant],
        look: Callable[[list[tuple[Image.Image, Variant]]], Sequence[Seen]],
    ) -> list[Seen]:
        """What `look` finds in each picture looked at in its way, asked only for what is not remembered."""
        keys = [(one.digest, variant) for one, variant in zip(images, variants, strict=True)]
        with self._lock:
            remembered = self._by_encoder.setdefault(encoder, OrderedDict())
            found = {key: remembered[key] for key in keys if key in remembered}
        missing = {
            key: (one.image, key[1]) for key, one in zip(keys, images, strict=True) if key not in found
        }
        if missing:
            found |= dict(zip(missing, look(list(missing.values())), strict=True))
        with self._lock:
            for key in keys:
                remembered[key] = found[key]
                remembered.move_to_end(key)
            while len(remembered) > self.pictures:
                remembered.popitem(last=False)
        return [found[key] for key in keys]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._by_encoder.clear()
