"""The encoded features of a picture, kept after the frozen vision tower ran, and its layout in a prompt.

The only module that knows how transformers' processors and encoders represent pictures: tiles, rows of
patches, marks between them, features for deeper layers.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.backbones.generation import is_assisted
from myvlm.errors import BackboneError

PICTURE_FIELDS = {"last_hidden_state", "pooler_output", "hidden_states", "attentions", "deepstack_features"}
"""Fields of an encoder's output that belong to individual pictures; see `Features.shared` for the others."""


@dataclass(frozen=True, eq=False)
class Layout:
    """How a picture is represented in a prompt.

    Args:
        text: the text that the processor writes for it: `T` image placeholders with marks between them.
        inputs: the model's arguments that depend on the picture, such as `image_grid_thw`, `1 × …` each.
    """

    text: str
    inputs: dict[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Features:
    """Everything that a language model receives of one picture.

    Args:
        tokens: `T × D`, visual tokens as the model's encoder returns them, newline tokens between tiles
            included; projected, except where the model projects them later (Llama 4).
        layout: how the picture is represented in a prompt.
        deepstack: features added to the visual tokens in the first layers, `T × D` each.
        stacked: whether the model's encoder returns a batch as one tensor and not as a list.
        shared: the encoder's outputs that belong to no single picture, by name (Ovis2's embeddings of the
            marks around a picture).
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
        """Size of the tensors in bytes."""
        return sum(part.nbytes for part in (self.tokens, *self.deepstack))


def read_pictures(processor: Any, images: Sequence[Image.Image]) -> tuple[Any, list[str]]:
    """Process pictures into the model's inputs and the text that represents each picture in a prompt.

    Processors report the text that replaces each placeholder. If one does not, its token ids are decoded.

    Raises:
        BackboneError: the processor cannot expand a placeholder and its picture.
    """
    tokenizer = processor.tokenizer
    padded = tokenizer.pad_token is not None  # texts differ in length
    options: dict[str, Any] = {"images_kwargs": {"return_tensors": "pt"}}
    if padded:
        options = {"return_tensors": "pt", "padding": True}
    try:
        inputs = processor(
            # All families take a list of pictures per text; some read a flat list as pictures of one text.
            images=[[image] for image in images],
            text=[str(processor.image_token)] * len(images),
            return_text_replacement_offsets=True,
            **options,
        )
    except (AttributeError, NotImplementedError) as error:
        raise BackboneError(
            "The processor cannot insert a picture's tokens into a prompt.",
            got=f"{type(processor).__name__}: {error}",
            expected="a transformers processor with `replace_image_token`, release 5.23 or later",
            fix="update transformers, or override `read` in the family",
        ) from error
    offsets = inputs.pop("text_replacement_offsets", None)
    ids = inputs.pop("input_ids")
    for name in [name for name, value in inputs.items() if _is_per_token(value, ids)]:
        inputs.pop(name)
    if offsets:
        return inputs, ["".join(part["replacement"] for part in own) for own in offsets]
    return inputs, [_decode_with_marks(tokenizer, [int(token) for token in own]) for own in ids]


def _decode_with_marks(tokenizer: Any, ids: Sequence[int]) -> str:
    """Decode token ids without beginning, end and padding; added tokens are joined as they are written."""
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    marks = set(tokenizer.get_added_vocab().values())
    runs = groupby((token for token in ids if token not in ends), lambda token: token in marks)
    read: list[str] = []
    for mark, run in runs:
        read += tokenizer.convert_ids_to_tokens(list(run)) if mark else [tokenizer.decode(list(run))]
    return "".join(read)


def _is_per_token(value: Any, ids: Any) -> bool:
    """Whether an input has one entry per token, like the ids."""
    if isinstance(ids, Tensor):
        return isinstance(value, Tensor) and value.shape == ids.shape
    return isinstance(value, list) and [len(row) for row in value] == [len(row) for row in ids]


def encode_pictures(
    model: Any, inputs: Any, texts: Sequence[str], *, mark: str, keep: Sequence[str]
) -> list[Features]:
    """Run the vision tower and the projector once, and split the visual tokens by picture.

    Args:
        model: a model with `get_image_features`.
        inputs: the processed pictures, on the model's device.
        texts: the text that represents each picture in a prompt.
        mark: the image placeholder, as text.
        keep: names of inputs that the language model needs too.

    Raises:
        BackboneError: the number of visual tokens differs from the number of placeholders.
    """
    encoder = model.base_model.get_image_features
    wanted = {name: inputs[name] for name in inspect.signature(encoder).parameters if name in inputs}
    with torch.no_grad():
        output = encoder(**wanted, return_dict=True)
    lengths = [text.count(mark) for text in texts]
    given = tokens_field(output)
    tokens = _flatten(output[given])
    if len(tokens) != sum(lengths):
        raise _token_mismatch(
            f"{len(tokens)} visual tokens of {len(texts)} pictures",
            f"{sum(lengths)} placeholders from the processor",
        )
    deeper = [
        torch.split(_flatten(level), lengths) for level in getattr(output, "deepstack_features", None) or []
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
    """The `mm_encoder_outputs` argument of the model's forward, as its own encoder would return it."""
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


def token_mismatch_in(error: ValueError, model: Any, options: Mapping[str, Any]) -> BackboneError | None:
    """A BackboneError if `generate` reports that visual tokens and placeholders differ in number.

    None in assisted decoding, whose proposed tokens can be placeholders too.
    """
    message = str(error.__cause__ if isinstance(error.__cause__, ValueError) else error)
    if is_assisted(model, options):
        return None
    counted = all(word in message for word in ("features", "tokens", "match"))
    return _token_mismatch(message, "equal numbers") if counted else None


def _token_mismatch(got: str, expected: str) -> BackboneError:
    return BackboneError(
        "The processor and the model disagree on the tokens of a picture.",
        got=got,
        expected=expected,
        fix="load both from the same checkpoint; for an old one set the processor's patch_size, "
        "vision_feature_select_strategy and num_additional_image_tokens",
    )


def tokens_field(output: Any) -> str:
    """The field of an encoder's output with the visual tokens: its pooled output, else its last states."""
    return "last_hidden_state" if output.get("pooler_output") is None else "pooler_output"


def _shared(output: Any) -> dict[str, Tensor]:
    """Tensors of an encoder's output that belong to no single picture and are not the tower's raw states."""
    return {
        name: value
        for name, value in vars(output).items()
        if isinstance(value, Tensor) and name not in PICTURE_FIELDS
    }


def _flatten(output: Any) -> Tensor:
    """All tokens of a batch as `N × D`, given as one tensor or as one per picture."""
    if isinstance(output, Tensor):
        return output.reshape(-1, output.shape[-1])
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in output])
