"""The adapter for any causal image-text-to-text model of transformers that has no family file.

What a family file would state is derived from the processor and the model; `proof` then tests it at load.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from myvlm.backbones import tokens as text
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.boxes import kept_part
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features, Layout, stacked_inputs
from myvlm.backbones.causal.prefix_cache import Prefix
from myvlm.backbones.causal.proof import maps_are_right, prefixes_are_right, prove, unsupported
from myvlm.backbones.probe import Lack
from myvlm.errors import BackboneError

_log = logging.getLogger(__name__)

IMAGE_IDS = ("image_token_id", "image_token_index", "image_patch_id", "media_placeholder_token_id")
"""Names under which configurations and processors store the id of the image placeholder."""
TEXT_INPUTS = ("input_ids", "attention_mask")
"""Per-token inputs of every model. Some models also take token types that mark image tokens."""


@dataclass(frozen=True)
class ProcessedPicture:
    """What was found out about a processor from one processed picture.

    Args:
        image_id: id of the placeholder of a visual token.
        types: for each input that is 1 at an image's tokens and 0 elsewhere, the ids at which it is 1:
            placeholders, in some models also marks.
    """

    image_id: int
    types: dict[str, tuple[int, ...]]


class GeneralBackbone(CausalBackbone):
    """Adapter for causal image-text-to-text models of transformers without a family of their own.

    Prompts use the processor's own chat template. Only a family file knows how to ask a model for a box: here
    concepts are located by their head. Attention maps are available if a test finds each corner of a picture
    in the matching corner of the grid. A family may build on this class (`families/glm.py`).

    Raises:
        BackboneError: concept rows cannot enter the model; the error says what was found.
    """

    family = "general"
    template = ""
    images_at_once = 4

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        self._processed_picture = inspect_processor(model, processor)
        base = model.base_model
        self._rope_index = getattr(base, "get_rope_index", None)
        accepted = inspect.signature(self._rope_index).parameters if self._rope_index else {}
        self._kept_inputs = tuple(
            name for name in accepted if name.startswith("image_") and name.endswith("thw")
        )
        self._uses_prefixes = False
        super().__init__(model, processor, name=name)
        if next(model.parameters()).device.type != "meta":
            prove(self)
            self._uses_prefixes = True  # so that `prefixes_are_right` can test them
            self._uses_prefixes = prefixes_are_right(self)
        if self.model_types:
            return  # a subclass with a family of its own, which has been tested
        _log.warning(
            "%s (%s) belongs to no proven family: the general adapter is used, which passed a test with one "
            "picture%s. myvlm.testing.check_backbone tests more.",
            self.name,
            model.config.model_type,
            "" if self._uses_prefixes else "; learning does not use kept prefixes",
        )

    @staticmethod
    def takes(model: Any) -> bool:
        """Whether transformers lists the model as image-text-to-text and its forward takes encoded images."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as known

        kind = getattr(getattr(model, "config", None), "model_type", None)
        return kind in known and "mm_encoder_outputs" in inspect.signature(model.forward).parameters

    @property
    def kept_inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._kept_inputs

    @property
    def language_model(self) -> nn.Module:
        module: nn.Module = self.model.get_decoder()
        return module

    @property
    def reader(self) -> nn.Module:
        module: nn.Module = self.model.base_model
        return module

    @property
    def image_id(self) -> int:
        return self._processed_picture.image_id

    def prompt_template(self) -> None:
        return None

    def arguments(
        self, ids: Tensor, mask: Tensor, starts: Sequence[int], layouts: Sequence[Layout]
    ) -> dict[str, Tensor]:
        token_types = {
            name: torch.isin(ids, torch.tensor(typed, device=ids.device)).int()
            for name, typed in self._processed_picture.types.items()
        }
        if self._rope_index is None:
            return token_types
        kept = stacked_inputs(layouts, ids.device)
        images = (ids == self.image_id).int()
        known = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": images, **token_types, **kept}
        wanted = inspect.signature(self._rope_index).parameters
        positions, _ = self._rope_index(**{name: known[name] for name in wanted if name in known})
        return {**token_types, "position_ids": positions, **kept}

    @property
    def _has_arguments(self) -> bool:
        return self._rope_index is not None or bool(self._processed_picture.types)

    @cached_property
    def _maps_are_right(self) -> bool:
        """Whether attention maps are correct; tested on first use, because it encodes ten small pictures."""
        return next(self.model.parameters()).device.type == "meta" or maps_are_right(self)

    @property
    def lacks(self) -> Mapping[Lack, str]:  # type: ignore[override]
        unkept = "the model's cache or positions are of an unsupported kind"
        lacks: dict[Lack, str] = {} if self._uses_prefixes else {"kept_prefixes": unkept}
        if not self._maps_are_right:
            lacks["attention_map"] = "it is unknown which visual tokens show the whole picture"
        return lacks

    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        if not self._maps_are_right:
            raise BackboneError(
                "Attention maps are not available for this model.",
                got=f"{self.model.config.model_type}, whose visual tokens do not follow a picture's patches",
                expected="one grid of tokens per picture, or a family that defines `grid`",
                fix="add the family, with `grid`: examples/04_new_backbone.py",
            )
        return super().attention_map(image, prompt, answer, word, rows)

    def prefixes(self, features: Sequence[Features]) -> list[Prefix] | None:
        return super().prefixes(features) if self._uses_prefixes else None

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return kept_part(self.processor.image_processor, size)

    def grid(self, features: Features) -> tuple[int, int, int]:
        mark = self.processor.tokenizer.convert_ids_to_tokens(self.image_id)
        sizes = next((features.layout.inputs[name][0] for name in self._kept_inputs), None)
        return whole_view(features.layout.text, mark, len(features), sizes)


def inspect_processor(model: Any, processor: Any) -> ProcessedPicture:
    """Process one small picture in the chat template and find its placeholder and token types.

    Raises:
        BackboneError: the result has no image placeholder that rows could follow.
    """
    picture = Image.new("RGB", (64, 48), (120, 90, 30))
    try:
        rendered = text.render(processor, None, "a")
        inputs = processor(images=[[picture]], text=[rendered], return_tensors="pt")
    except Exception as error:  # processors raise errors of any kind
        raise unsupported(f"{type(processor).__name__}: {type(error).__name__}: {error}") from error
    ids = inputs["input_ids"]
    named = [getattr(model.config, name, None) for name in IMAGE_IDS]
    named += [getattr(processor, name, None) for name in IMAGE_IDS]
    image_id = next((int(own) for own in named if own is not None and own in ids), None)
    if image_id is None:
        tried = sorted({own for own in named if own is not None})
        raise unsupported(f"a prompt without any of the image placeholders {tried}")
    types: dict[str, tuple[int, ...]] = {}
    for name, own in inputs.items():
        if name not in TEXT_INPUTS and isinstance(own, Tensor) and own.shape == ids.shape:
            typed = ids[own == 1].unique()
            if not torch.equal(own, torch.isin(ids, typed).to(own.dtype)):
                raise unsupported(f"{name} that cannot be derived from the ids")
            types[name] = tuple(typed.tolist())
    return ProcessedPicture(image_id, types)


def whole_view(written: str, mark: str, count: int, sizes: Tensor | None) -> tuple[int, int, int]:
    """The visual tokens that show the whole picture: index of the first, height, width.

    Derived from the picture's size in patches where the model takes that. Otherwise from the runs of
    placeholders: rows of equal length, or the last run that is a square; else a square of the first tokens.

    Args:
        written: the text that represents the picture in a prompt.
        mark: the placeholder.
        count: the number of visual tokens.
        sizes: time, height and width in patches; None if unknown.

    >>> whole_view("<i><i><i>|<i><i><i>", "<i>", 6, None), whole_view("<i>" * 4, "<i>", 4, None)
    ((0, 2, 3), (0, 2, 2))
    >>> whole_view("<i>" * 6, "<i>", 6, torch.tensor([1, 4, 6])), whole_view("<i>" * 7, "<i>", 7, None)
    ((0, 2, 3), (0, 2, 2))
    >>> whole_view("a" + "<i>" * 4 + "b" + "<i>" * 9, "<i>", 13, None)
    (4, 3, 3)
    """
    if sizes is not None:
        _, height, width = sizes.tolist()
        merged = max(math.isqrt(height * width // count), 1)
        if height // merged * (width // merged) == count:
            return 0, height // merged, width // merged
    runs = [len(run) // len(mark) for run in re.findall(f"(?:{re.escape(mark)})+", written)]
    if len(runs) > 1 and len(set(runs)) == 1 and math.isqrt(runs[0]) ** 2 != runs[0]:
        return 0, len(runs), runs[0]
    for place in reversed(range(len(runs))):
        side = math.isqrt(runs[place])
        if side > 1 and side * side == runs[place]:
            return sum(runs[:place]), side, side
    side = math.isqrt(count)
    return 0, side, side
