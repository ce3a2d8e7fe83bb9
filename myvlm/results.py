"""Results of calls: replies with the concepts detected in the picture, and attention maps to plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
from PIL import Image

from myvlm.boxes import Box
from myvlm.display.page import Cell, Markup, coloured, emphasised, figure, grid, joined, picture
from myvlm.display.pictures import Mark, marked
from myvlm.errors import MyVLMError, check_is, import_extra
from myvlm.heads import Detection
from myvlm.heads.detections import Detections
from myvlm.images import LoadedImage, Source, Unusable, load_image

MOST_REPLIES = 60
"""How many replies of a list a notebook shows."""
MOST_WRITTEN = 10
"""How many replies of a list its `repr` shows."""


@dataclass(frozen=True, eq=False)
class Reply:
    """One reply: `str(reply)` is its text; in a notebook it shows the picture, boxes and text.

    Attributes:
        text: the caption or answer, which refers to concepts by their identifiers.
        detections: one per concept of the library, present or not.
        picture: the picture, or its file if the call had many pictures; None if there is no picture.
        token_ids: the generated token ids.
        absent: concepts that the question names but no head detected; the prompt says they are not there.
        error: with `errors="keep"`, why the picture cannot be used; `text` and `detections` are empty then.
    """

    text: str
    detections: Sequence[Detection]
    picture: Image.Image | Path | None
    token_ids: tuple[int, ...] = ()
    error: MyVLMError | None = None
    absent: tuple[str, ...] = ()

    @classmethod
    def instead(cls, error: MyVLMError, source: Source) -> Reply:
        """The reply that takes the place of one to a picture that cannot be used."""
        match source:
            case LoadedImage():
                return cls("", (), source.image, error=error)
            case Unusable():
                return cls("", (), source.path, error=error)
        return cls("", (), source, error=error)

    @property
    def image(self) -> Image.Image:
        """The picture as RGB; read from its file if only the path is kept.

        Raises: as `myvlm.images.load_images`; the reply's `error` if there is no picture.
        """
        if self.picture is None:
            raise self.error or ValueError("this reply has no picture")
        return self.picture if isinstance(self.picture, Image.Image) else load_image(self.picture).image

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        if self.error:
            return f"Reply(error={self.error.what!r})"
        return f"Reply({self.text!r}, seen={list(self.seen)})"

    @property
    def seen(self) -> tuple[str, ...]:
        """Identifiers of the concepts that were detected in the picture."""
        if isinstance(self.detections, Detections):
            return tuple(self.detections.seen)
        return tuple(one.identifier for one in self.detections if one.present)

    def _repr_html_(self) -> str:
        return self._figure(320)

    def _figure(self, width: int) -> Markup:
        """HTML: the picture with its boxes, shown at most `width` pixels wide, and the text below it."""
        present = _present_with_index(self.detections)
        text = emphasised(self.text, {one.identifier: number for number, one in present})
        seen = [_probability_cell(one, number) for number, one in present]
        try:
            shown = picture(self.image, marks_of(present), alt=self.text, width=width)
        except MyVLMError as error:  # the file may have been deleted since
            shown = Markup("") if self.error else joined([Markup("<small>"), error.what, Markup("</small>")])
        if self.error:
            return figure(shown, [self.error.what, f"got: {self.error.got}"])
        return figure(
            shown, [text, joined(["detected: ", joined(seen, ", ")]) if seen else "no concept detected"]
        )


class Replies(list[Reply]):
    """The replies of `caption` or `ask` to several pictures: a list, which a notebook shows as a grid.

    >>> Replies([Reply("a mug", (), Image.new("RGB", (2, 2)))])
    [Reply('a mug', seen=[])]
    """

    def __repr__(self) -> str:
        if len(self) <= MOST_WRITTEN:
            return super().__repr__()
        first = ", ".join(map(repr, self[:MOST_WRITTEN]))
        return f"[{first}, … {len(self) - MOST_WRITTEN:,} more]"

    @overload
    def __getitem__(self, index: SupportsIndex) -> Reply: ...
    @overload
    def __getitem__(self, index: slice) -> Replies: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Reply | Replies:
        return Replies(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def _repr_html_(self) -> str:
        return grid([one._figure(220) for one in self[:MOST_REPLIES]], of=len(self))


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap:
    """Attention of a concept over a picture: `values`, h × w float32 over the tokens inside `box`, sum 1.

    `np.asarray(map)` is `values`. `overlay()` returns the picture with the map on it, which is what a
    notebook shows. `plot()` draws with matplotlib.
    """

    values: npt.NDArray[np.float32]
    image: Image.Image
    identifier: str
    box: Box

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype)

    def __repr__(self) -> str:
        height, width = self.values.shape
        across, down = self.peak
        return f"AttentionMap({self.identifier!r}, {height} × {width}, peak at ({across:.0f}, {down:.0f}))"

    @property
    def peak(self) -> tuple[float, float]:
        """The center of the cell with the highest attention, in pixels from the left and from the top."""
        row, column = np.unravel_index(int(self.values.argmax()), self.values.shape)
        left, top, right, bottom = self.box
        height, width = self.values.shape
        return (
            float(left + (column + 0.5) * (right - left) / width),
            float(top + (row + 0.5) * (bottom - top) / height),
        )

    def overlay(self, strength: float = 0.65) -> Image.Image:
        """The picture, darkened where attention is low and tinted where it is high."""
        check_is(strength, (int, float), what="overlay strength", expected="a number from 0 to 1")
        level = self.values / max(float(self.values.max()), 1e-12)
        left, top, right, bottom = (round(edge) for edge in self.box)
        seen = Image.fromarray((255 * level).astype(np.uint8))
        mask = Image.new("L", self.image.size, 0)
        covered = max(1, right - left), max(1, bottom - top)  # a side of a narrow strip may round to zero
        mask.paste(seen.resize(covered, Image.Resampling.BICUBIC), (left, top))
        dim = Image.blend(self.image, Image.new("RGB", self.image.size, (10, 10, 30)), strength)
        warm = Image.blend(self.image, Image.new("RGB", self.image.size, (255, 120, 30)), 0.25)
        return Image.composite(warm, dim, mask)

    def plot(self, ax: Any = None, *, cmap: str = "inferno", alpha: float = 0.6) -> Any:
        """Draw the picture and the map over it with matplotlib, in pixel coordinates of the picture.

        Args:
            ax: the axes to draw into; by default those of a new figure.
            cmap: name of a colour map.
            alpha: opacity of the map, from 0 to 1.

        Returns:
            The axes.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        pyplot = import_extra("matplotlib.pyplot", what="A plot", install="matplotlib")
        axes = pyplot.subplots()[1] if ax is None else ax
        left, top, right, bottom = self.box
        axes.imshow(self.image)
        axes.imshow(self.values, cmap=cmap, alpha=alpha, extent=(left, right, bottom, top))
        axes.set_xlim(0, self.image.width)
        axes.set_ylim(self.image.height, 0)
        axes.set_title(f"attention to {self.identifier}")
        axes.set_axis_off()
        return axes

    def _repr_html_(self) -> str:
        what = f"attention to {self.identifier}"
        return figure(picture(self.overlay(), alt=what), [what])


def mark(image: Image.Image, detections: Iterable[Detection]) -> Image.Image:
    """A copy of the picture with the boxes of the detected concepts drawn in."""
    return marked(image, marks_of(_present_with_index(detections)))


def marks_of(detections: Iterable[tuple[int, Detection]]) -> list[Mark]:
    """The boxes of numbered detections, to be drawn in the colour of their number."""
    return [Mark(one.box, one.identifier, number) for number, one in detections if one.box]


def _present_with_index(detections: Iterable[Detection]) -> list[tuple[int, Detection]]:
    """Detections that are present, with their indices; from `Detections` without creating the absent ones."""
    if isinstance(detections, Detections):
        return [(place, detections[place]) for place in detections.present_indices]
    return [(place, one) for place, one in enumerate(detections) if one.present]


def _probability_cell(detection: Detection, number: int) -> Cell:
    unsure = ", unsure" if detection.unsure else ""
    return joined([coloured(detection.identifier, number), f" {detection.probability:.0%}{unsure}"])
