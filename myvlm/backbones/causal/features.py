"""What is kept of a picture once the frozen vision tower has seen it, and how it stands in a prompt.

The one place that knows how transformers' processors and encoders hand pictures over: tiles, rows of
patches, marks between them, features for deeper layers.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.errors import BackboneError

OWN = {"last_hidden_state", "pooler_output", "hidden_states", "attentions", "deepstack_features"}
"""What an encoder's output holds of each picture."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How a picture stands in a prompt.

    Args:
        text: what the processor writes for it: `T` image placeholders, and marks among them.
        inputs: arguments of the model that depend on it, such as `image_grid_thw`, `1 × …` each.
    """

    text: str
    inputs: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Features:
    """All that a language model is given of one picture.

    Args:
        tokens: `T × D`, its visual tokens as the model's encoder gives them, newline tokens between tiles
            included; projected, but where the model itself projects them later (Llama 4).
        layout: how it stands in a prompt.
        deepstack: what is added to the visual tokens in the first layers, `T × D` each.
        stacked: whether the model's encoder gives a batch as one tensor and not as a list.
        shared: what the encoder gives beside that is no picture's own, by its name there (Ovis2's embeddings
            of the marks around a picture).
        field: the name of `tokens` in the encoder's output.

    >>> len(Features(torch.zeros(16, 8), Layout("<image>" * 16)))
    16
    """

    tokens: Tensor
    layout: Layout
    deepstack: tuple[Tensor, ...] = ()
    stacked: bool = False
    shared: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    field: str = "pooler_output"

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(part.nbytes for part in (self.tokens, *self.deepstack))


def read_pictures(processor: Any, images: Sequence[Image.Image]) -> tuple[Any, list[str]]:
    """What the processor makes of pictures: the model's inputs, and the text that stands for each.

    The processor itself says what it wrote in the place of each placeholder; of one that does not say, the
    ids are read back.

    Raises:
        BackboneError: the processor takes no placeholder with its picture.
    """
    tokenizer = processor.tokenizer
    padded = tokenizer.pad_token is not None  # texts are of different lengths
    options: dict[str, Any] = {"images_kwargs": {"return_tensors": "pt"}}
    if padded:
        options = {"return_tensors": "pt", "padding": True}
    try:
        inputs = processor(
            # Every family takes a list of pictures for each text; some take a flat list for one text.
            images=[[image] for image in images],
            text=[str(processor.image_token)] * len(images),
            return_text_replacement_offsets=True,
            **options,
        )
    except (AttributeError, NotImplementedError) as error:
        raise BackboneError(
            "The processor does not say how it writes a picture in a prompt.",
            got=f"{type(processor).__name__}: {error}",
            expected="a transformers processor with `replace_image_token`, release 5.23 or later",
            fix="update transformers, or override `read` in the family",
        ) from error
    offsets = inputs.pop("text_replacement_offsets", None)
    ids = inputs.pop("input_ids")
    for name in [name for name, value in inputs.items() if _of_text(value, ids)]:
        inputs.pop(name)
    if offsets:
        return inputs, ["".join(part["replacement"] for part in own) for own in offsets]
    return inputs, [_read_back(tokenizer, [int(token) for token in own]) for own in ids]


def _read_back(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of ids, without what begins, ends and pads it; marks as they are written, side by side."""
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    marks = set(tokenizer.get_added_vocab().values())
    runs = groupby((token for token in ids if token not in ends), lambda token: token in marks)
    read: list[str] = []
    for mark, run in runs:
        read += tokenizer.convert_ids_to_tokens(list(run)) if mark else [tokenizer.decode(list(run))]
    return "".join(read)


def _of_text(value: Any, ids: Any) -> bool:
    """Whether an input has an entry a token, as the ids have."""
    if isinstance(ids, Tensor):
        return isinstance(value, Tensor) and value.shape == ids.shape
    return isinstance(value, list) and [len(row) for row in value] == [len(row) for row in ids]


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
    given = tokens_field(output)
    tokens = _flat(output[given])
    if len(tokens) != sum(lengths):
        raise _miscount(
            f"{len(tokens)} visual tokens of {len(texts)} pictures",
            f"{sum(lengths)} placeholders that the processor writes",
        )
    deeper = [
        torch.split(_flat(level), lengths) for level in getattr(output, "deepstack_features", None) or []
    ]
    return [
        Features(
            own,
            Layout(text, {name: inputs[name][index : index + 1].cpu() for name in keep}),
            tuple(level[index] for level in deeper),
            isinstance(output[given], Tensor),
            _shared(output),
            given,
        )
        for index, (own, text) in enumerate(zip(torch.split(tokens, lengths), texts, strict=True))
    ]


def encoder_outputs(features: Sequence[Features], device: torch.device) -> dict[str, Any]:
    """What the model's forward takes as `mm_encoder_outputs`, as its own encoder would give it."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    tokens: Any = [feature.tokens.to(device) for feature in features]
    if features[0].stacked:
        tokens = torch.cat(tokens)
    output = BaseModelOutputWithPooling(**{features[0].field: tokens})
    for name, tensor in features[0].shared.items():
        setattr(output, name, tensor.to(device))
    if features[0].deepstack:
        levels = zip(*(feature.deepstack for feature in features), strict=True)
        output.deepstack_features = [[level.to(device) for level in own] for own in levels]
    return {"image": output}


def stacked_inputs(layouts: Sequence[Layout], device: torch.device) -> dict[str, Tensor]:
    """The kept inputs of several pictures as one batch."""
    return {
        name: torch.cat([layout.inputs[name] for layout in layouts]).to(device) for name in layouts[0].inputs
    }


def miscount_in(error: ValueError) -> BackboneError | None:
    """Ours for transformers' error of another number of visual tokens than placeholders; None for another."""
    message = str(error)
    counted = all(word in message for word in ("features", "tokens", "match"))
    return _miscount(message, "as many of each") if counted else None


def _miscount(got: str, expected: str) -> BackboneError:
    return BackboneError(
        "The processor and the model do not agree on a picture's tokens.",
        got=got,
        expected=expected,
        fix="load both from one checkpoint; for an old one set the processor's patch_size, "
        "vision_feature_select_strategy and num_additional_image_tokens",
    )


def tokens_field(output: Any) -> str:
    """The name of the visual tokens in an encoder's output: what it pooled, else its last states."""
    return "last_hidden_state" if output.get("pooler_output") is None else "pooler_output"


def _shared(output: Any) -> dict[str, Tensor]:
    """What is no picture's own in an encoder's output; no language model reads the tower's raw states."""
    return {
        name: value for name, value in vars(output).items() if isinstance(value, Tensor) and name not in OWN
    }


def _flat(output: Any) -> Tensor:
    """`N × D`: all tokens of a batch, whether it is one tensor or one a picture."""
    if isinstance(output, Tensor):
        return output.reshape(-1, output.shape[-1])
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
