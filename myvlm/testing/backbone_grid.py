"""The part of a backbone's contract about positions in a picture: attention maps and the token grid."""

from __future__ import annotations

from unittest import SkipTest

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from myvlm.errors import BackboneError
from myvlm.testing.backbone_case import BackboneCase

COLOURS = (((90, 100, 110), (255, 240, 20)), ((200, 190, 180), (10, 30, 160)), ((30, 90, 40), (240, 90, 200)))
"""Pairs of background and patch colours."""
MIN_CHANGE = 0.5
"""Minimum change of the patch's cell, relative to the largest change of any token: resizing lets a tile
beside the patch see a little of it. Over this package's families on tiny random models the minimum is 0.7."""


def attention_map_is_a_map(case: BackboneCase) -> None:
    """An attention map is finite, not negative, sums to 1, has the grid's shape and depends on the word."""
    _skip_without_maps(case)
    rows, answer = case.rows(1)[0], f"a photo of {case.identifier} on the table"
    [features] = case.backbone.encode(case.images[:1])
    shape = tuple(_token_grid(case, features).shape)
    said, unsaid = (
        case.backbone.attention_map(case.images[0], case.prompts[0], text, case.identifier, rows)
        for text in (answer, "a photo")
    )
    for found in (said, unsaid):
        assert found.shape == shape, f"a map of {found.shape}, a grid of {shape}"
        assert found.dtype == "float32"
        assert (found >= 0).all()
        assert abs(float(found.sum()) - 1) < 1e-5, f"sum {found.sum()}"
    assert (said != unsaid).any(), "the attention of the word equals that of the rows"


def grid_lies_over_the_picture(case: BackboneCase) -> None:
    """The grid has one cell for each of its tokens, and a patch in a picture changes the cell that it covers.

    The patch has the size of a cell. It is placed in the corners of the family's field of view and off the
    diagonals; a grid that is transposed, mirrored, shifted or of the wrong size misses some of them. A cell's
    change is measured relative to its mean change over all patches: in a small random model every token
    attends to every other, and some react more than others.
    """
    _skip_without_maps(case)
    for size in {image.size for image in case.images}:
        [features] = case.backbone.encode([Image.new("RGB", size)])
        cells = _token_grid(case, features)
        height, width = cells.shape
        named = cells[cells >= 0]
        assert len(named) == len(set(named.tolist())), "a token is in two cells"
        assert height * width - len(named) <= 1, f"{height} × {width} cells, {len(named)} tokens"
        places = [place for place in _patch_cells(height, width) if cells[place] >= 0]
        changes = torch.stack([_token_changes(case, size, place, (height, width)) for place in places])
        relative = changes / changes.mean(0).clamp(min=1e-9)
        for place, change, moved in zip(places, changes, relative, strict=True):
            found = divmod(int(case.probe.arranged(features, moved).argmax()), width)
            where = f"a patch on cell {place} of {height} × {width} in a picture of {size}"
            assert found == place, f"{where} moves {found}"
            share = float(change[cells[place]] / change.max())
            assert share > MIN_CHANGE, (
                f"{where} changes its cell by only {share:.0%} of the change of another token"
            )


def _token_changes(
    case: BackboneCase, size: tuple[int, int], place: tuple[int, int], cells: tuple[int, int]
) -> Tensor:
    """`T`: how far a patch on one cell moves each visual token, averaged over `COLOURS`."""
    changes = []
    for background, patch in COLOURS:
        plain = Image.new("RGB", size, background)
        before, after = case.backbone.encode([plain, _with_patch(case, plain, patch, place, cells)])
        change = (_tokens(case, after) - _tokens(case, before)).norm(dim=-1)
        changes.append(change / change.mean().clamp(min=1e-9))
    return torch.stack(changes).mean(0)


def _skip_without_maps(case: BackboneCase) -> None:
    if "attention_map" not in case.lacks:
        return
    try:
        case.backbone.attention_map(case.images[0], case.prompts[0], "a photo", "photo", case.rows(1)[0])
    except BackboneError:
        raise SkipTest(case.lacks["attention_map"]) from None
    raise AssertionError("`lacks` declares 'attention_map', which the backbone can do")


def _tokens(case: BackboneCase, features: object) -> Tensor:
    return case.probe.visual_tokens(features).detach().float().cpu()


def _token_grid(case: BackboneCase, features: object) -> Tensor:
    """`h × w`: the number of the token in each cell; -1 for a cell whose token the model leaves out."""
    numbers = torch.arange(1, len(_tokens(case, features)) + 1)
    return case.probe.arranged(features, numbers) - 1


def _patch_cells(height: int, width: int) -> list[tuple[int, int]]:
    """The corner cells, and two cells off the diagonals."""
    bottom, right = height - 1, width - 1
    corners = {(0, 0), (0, right), (bottom, 0), (bottom, right)}
    return sorted(corners | {(0, right // 2), (bottom // 2, right)})


def _with_patch(
    case: BackboneCase,
    plain: Image.Image,
    colour: tuple[int, int, int],
    cell: tuple[int, int],
    cells: tuple[int, int],
) -> Image.Image:
    """The picture with a patch over one cell of its grid."""
    left, top, right, bottom = case.backbone.field_of_view(plain.size)
    width, height = (right - left) / cells[1], (bottom - top) / cells[0]
    row, column = cell
    picture = plain.copy()
    # Drawn large and then reduced: a cell may be narrower than a pixel or end between two.
    scale = 8
    mask = Image.new("L", (plain.width * scale, plain.height * scale), 0)
    x, y = left + column * width, top + row * height
    ImageDraw.Draw(mask).rectangle(
        [x * scale, y * scale, (x + width) * scale - 1, (y + height) * scale - 1], fill=255
    )
    picture.paste(colour, mask=mask.resize(plain.size, Image.Resampling.BOX))
    return picture
