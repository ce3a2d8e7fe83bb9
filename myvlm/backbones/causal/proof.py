"""Small tests of an adapter on its model at load: rows change the loss, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import ConceptRows
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.tokens import IGNORED
from myvlm.errors import BackboneError

PROMPT, ANSWER = "Describe the image.", "a photo of a mug"
TOLERANCE, TOLERANCE_OF_HALF = 1e-4, 0.05
"""Relative tolerances of numbers that should be equal: in float32, and in half precision or quantised."""


def prove(backbone: CausalBackbone) -> None:
    """Test an adapter on one picture.

    Raises:
        BackboneError: learning and generation use different ids, encoded features give another loss than
            pixels, rows do not change the loss, or the plain model's logits changed afterwards.
    """
    try:
        _check_adapter(backbone)
    except BackboneError:
        raise
    except Exception as error:  # a model made for other inputs may raise any error
        raise unsupported(f"{type(error).__name__}: {error}") from error


def prefixes_are_right(backbone: CausalBackbone) -> bool:
    """Whether loss and gradient after a cached prefix equal those of the full pass."""
    features = backbone.encode([trial_picture()])
    rows = _random_rows(backbone)
    directions = rows[0].directions
    try:
        prefixes = backbone.prefixes(features)
        if prefixes is None:
            return False
        losses = [
            backbone.answer_loss(features, [PROMPT], [ANSWER], [rows]),
            backbone.tail_loss(prefixes, [PROMPT], [ANSWER], [rows]),
        ]
        whole = [loss.cross_entropy + loss.attention for loss in losses]
        gradients = [torch.autograd.grad(loss, directions)[0] for loss in whole]
    except Exception:  # another kind of cache, positions of its own, …: no prefixes are used
        return False
    return _close(backbone, *whole) and _close(backbone, *gradients)


def maps_are_right(backbone: CausalBackbone) -> bool:
    """Whether a patch in each corner of the field of view changes the token of that corner the most."""
    for size in ((160, 64), (64, 160)):
        [plain] = backbone.encode([Image.new("RGB", size, (90, 100, 110))])
        _, height, width = backbone.grid(plain)
        left, top, right, bottom = backbone.field_of_view(size)
        wide, high = (right - left) / width, (bottom - top) / height
        places = sorted({(row, column) for row in (0, height - 1) for column in (0, width - 1)})
        changes = []
        for row, column in places:
            picture = Image.new("RGB", size, (90, 100, 110))
            corner = round(left + column * wide), round(top + row * high)
            picture.paste((255, 240, 20), (*corner, round(corner[0] + wide), round(corner[1] + high)))
            [seen] = backbone.encode([picture])
            if seen.tokens.shape != plain.tokens.shape:
                return False
            changes.append(backbone.arranged(plain, (seen.tokens - plain.tokens).float().norm(dim=-1)))
        moved = torch.stack(changes)
        relative = moved / moved.mean(0).clamp(min=1e-9)
        if [divmod(int(one.argmax()), width) for one in relative] != places:
            return False
    return True


def trial_picture() -> Image.Image:
    """A picture of colour noise, wider than it is high."""
    pixels = torch.randint(0, 256, (48, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def _random_rows(backbone: CausalBackbone) -> list[ConceptRows]:
    directions = torch.randn(2, backbone.dim, generator=torch.Generator().manual_seed(0))
    return [ConceptRows(directions.requires_grad_())]


def _check_adapter(backbone: CausalBackbone) -> None:
    picture, model = trial_picture(), backbone.model
    inputs = backbone.prompter.processed([picture], [PROMPT])
    features = backbone.encode([picture])
    layouts = [feature.layout for feature in features]
    batch = backbone.prompter.teacher_forced([layouts[0].text], [PROMPT], [ANSWER], [[]])
    learned_ids, used_ids = batch.ids[0, : batch.starts[0]], inputs["input_ids"][0]
    if learned_ids.tolist() != used_ids.tolist():
        raise unsupported(
            f"a prompt of {len(used_ids)} ids in use, but {len(learned_ids)} different ids in learning"
        )
    pixel_inputs = {name: value for name, value in inputs.items() if value.shape != inputs["input_ids"].shape}
    arguments = backbone.arguments(
        batch.ids.to(backbone.device), batch.attention_mask.to(backbone.device), batch.starts, layouts
    )
    inputs = inputs.to(backbone.device, backbone.dtype)
    with backbone.frozen(), torch.no_grad():
        before = _plain_logits(model, inputs)
        pixels = {name: inputs[name] for name in pixel_inputs}
        logits = model(
            input_ids=batch.ids.to(backbone.device),
            attention_mask=batch.attention_mask.to(backbone.device),
            **{**pixels, **arguments},
        ).logits
        if not _close(backbone, logits[0, : len(used_ids)], before[0]):
            raise unsupported("different logits with the processor's inputs than with the adapter's")
        targets = batch.labels[0, 1:].to(logits.device)
        whole = functional.cross_entropy(logits[0, :-1].float(), targets, ignore_index=IGNORED)
        plain = backbone.answer_loss(features, [PROMPT], [ANSWER], [[]]).cross_entropy
        taught = backbone.answer_loss(features, [PROMPT], [ANSWER], [_random_rows(backbone)]).cross_entropy
        after = model(**inputs).logits
    if not _close(backbone, plain, whole):
        raise unsupported(f"a loss of {whole:.4f} from pixels, but {plain:.4f} from kept features")
    if torch.equal(plain, taught):
        raise unsupported("the same loss with and without rows")
    if not torch.equal(before, after):
        raise unsupported("different plain logits before and after using a concept")


def _plain_logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The logits of plain transformers.

    Raises:
        BackboneError: the model's own forward raises on its own processor's output.
    """
    try:
        logits: Tensor = model(**inputs).logits
    except Exception as error:  # models raise errors of any kind
        from transformers import __version__

        raise BackboneError(
            "Plain transformers, without MyVLM, cannot run this model on a picture.",
            got=f"in transformers {__version__} its own forward raises {type(error).__name__}: {error}",
            expected="logits for the processor's output for a prompt and a picture",
            fix="try another supported release of transformers (README.md, 'Families')",
        ) from error
    return logits


def _close(backbone: CausalBackbone, one: Tensor, other: Tensor) -> bool:
    allowed = TOLERANCE if backbone.dtype in (torch.float32, torch.float64) else TOLERANCE_OF_HALF
    return bool((one - other).norm() <= allowed * other.norm().clamp(min=1e-6))


def unsupported(found: str) -> BackboneError:
    """The error for a model that concept rows cannot enter."""
    return BackboneError(
        "The model belongs to no proven family, and the general adapter cannot use it.",
        got=found,
        expected="a chat template with one picture, visual tokens in its place, and rows after them that "
        "change the output",
        fix="use a proven family (README.md, 'Families'), or add the family: examples/04_new_backbone.py",
    )
