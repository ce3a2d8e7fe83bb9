"""What is kept of a picture once the frozen vision tower has seen it, and how it stands in a prompt.

The one place that knows how transformers' processors and encoders hand pictures over: tiles, rows of
patches, marks between them, features for deeper layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.errors import BackboneError


@dataclass(frozen=True, eq=False)
class Layout:
    """How a picture stands in a prompt.

    Args:
        text: what the processor writes for it: `T` image placeholders, and marks among them.
        inputs: arguments of the model that depend on it, such as `image_grid_thw`, `1 × …` each.
    """

    text: str
    inputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Features:
    """All that a language model is given of one picture.

    Args:
        tokens: `T × D`, its projected visual tokens, newline tokens between tiles included.
        layout: how it stands in a prompt.
        deepstack: what is added to the visual tokens in the first layers, `T × D` each.
        stacked: whether the model's encoder gives a batch as one tensor and not as a list.

    >>> len(Features(torch.zeros(16, 8), Layout("<image>" * 16)))
    16
    """

    tokens: Tensor
    layout: Layout
    deepstack: tuple[Tensor, ...] = ()
    stacked: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(part.nbytes for part in (self.tokens, *self.deepstack))


def read_pictures(processor: Any, images: Sequence[Image.Image]) -> tuple[Any, list[str]]:
    """What the processor makes of pictures: the model's inputs, and the text that stands for each.

    By the processor's own steps, so that its defaults hold (tiling, rows and columns, patch size).

    Raises:
        BackboneError: the processor does not say how it writes a picture.
    """
    try:
        options = processor._merge_kwargs(
            tokenizer_init_kwargs=processor.tokenizer.init_kwargs, return_tensors="pt"
        )["images_kwargs"]
        # Every family takes a list of pictures for each text; some take a flat list for one text.
        nested, *_ = processor.prepare_inputs_layout(
            images=[[image] for image in images], text=[processor.image_token] * len(images)
        )
        inputs, texts = processor._process_images(nested, **options)
    except (AttributeError, NotImplementedError) as error:
        raise BackboneError(
            "The processor does not say how it writes a picture in a prompt.",
            got=f"{type(processor).__name__}: {error}",
            expected="a transformers processor with `replace_image_token`, release 5.24 or later",
            fix="update transformers, or override `read` in the family",
        ) from error
    return inputs, list(texts)


def encode_pictures(
    model: Any, inputs: Any, texts: Sequence[str], *, mark: str, keep: Sequence[str]
) -> list[Features]:
    """Run the vision tower and the projector once and share the visual tokens out.

    Args:
        model: a model with `get_image_features`.
        inputs: what the processor made of the pictures, on the model's device.
        texts: what stands for each picture in a prompt.
        mark: the image placeholder, as text.
        keep: names of inputs that the language model needs too.

    Raises:
        BackboneError: the model makes more or fewer tokens than the processor writes placeholders.
    """
    encoder = model.base_model.get_image_features
    wanted = {name: inputs[name] for name in inspect.signature(encoder).parameters if name in inputs}
    with torch.no_grad():
        output = encoder(**wanted, return_dict=True)
    lengths = [text.count(mark) for text in texts]
    tokens = _flat(output.pooler_output)
    if len(tokens) != sum(lengths):
        raise BackboneError(
            "The processor and the model do not agree on a picture's tokens.",
            got=f"{len(tokens)} visual tokens of {len(texts)} pictures",
            expected=f"{sum(lengths)} placeholders that the processor writes",
            fix="load both from one checkpoint; for an old one set the processor's patch_size, "
            "vision_feature_select_strategy and num_additional_image_tokens",
        )
    deeper = [
        torch.split(_flat(level), lengths) for level in getattr(output, "deepstack_features", None) or []
    ]
    return [
        Features(
            own,
            Layout(text, {name: inputs[name][index : index + 1].cpu() for name in keep}),
            tuple(level[index] for level in deeper),
            isinstance(output.pooler_output, Tensor),
        )
        for index, (own, text) in enumerate(zip(torch.split(tokens, lengths), texts, strict=True))
    ]


def encoder_outputs(features: Sequence[Features], device: torch.device) -> dict[str, Any]:
    """What the model's forward takes as `mm_encoder_outputs`, as its own encoder would give it."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokens: Any = [feature.tokens.to(device) for feature in features]
    if features[0].stacked:
        tokens = torch.cat(tokens)
    output = BaseModelOutputWithPooling(pooler_output=tokens)
    if features[0].deepstack:
        levels = zip(*(feature.deepstack for feature in features), strict=True)
        output.deepstack_features = [[level.to(device) for level in own] for own in levels]
    return {"image": output}


def stacked_inputs(layouts: Sequence[Layout], device: torch.device) -> dict[str, Tensor]:
    """The kept inputs of several pictures as one batch."""
    return {
        name: torch.cat([layout.inputs[name] for layout in layouts]).to(device) for name in layouts[0].inputs
    }


def _flat(output: Any) -> Tensor:
    """`N × D`: all tokens of a batch, whether it is one tensor or one a picture."""
    if isinstance(output, Tensor):
        return output.reshape(-1, output.shape[-1])
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
