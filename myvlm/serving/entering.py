"""Encode a picture with concept rows as inputs of vLLM's unmodified model classes (by the source of 0.32).

`RowsAsPictures`, for Qwen-VL: its classes position visual tokens by the picture's grid (M-RoPE), in which
rows have no cell. A picture of one token, however, has the position of a word; so each row is sent as such a
picture after the real one. What deeper layers add to visual tokens (deepstack) is zero for rows.

`WholePrompt`, for other families: every class takes the embeddings of a prompt instead of its token ids, with
visual tokens and rows in their places. This is exact if the language model gets no other input for a token:
positions are consecutive, and each token attends to those before it. LLaVA's class also takes visual tokens
and rows together as the embeddings of one picture, but not two of different lengths in one engine step.
"""

from __future__ import annotations

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.base import Backbone, ConceptRows, visual_norms
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.causal.features import Features
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.tokens import Prompt, place_after_last
from myvlm.errors import BackboneError

Body = dict[str, Any]
"""The JSON body of a request to vLLM's server, or a part of it."""

PASS_THROUGH_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""A chat template that passes a rendered prompt through, picture placeholders included."""


@dataclass(frozen=True, eq=False)
class EngineInput(ABC):
    """One picture, the rows of the concepts detected in it and a prompt, in a form that vLLM accepts.

    Args:
        embeddings: on the CPU; the subclasses say of what.
    """

    options: ClassVar[dict[str, bool]]
    """Options that vLLM's engine needs for this form."""
    flags: ClassVar[tuple[str, ...]]
    """Flags that vLLM's server needs for this form."""

    embeddings: Tensor

    @abstractmethod
    def offline(self) -> dict[str, Any]:
        """The prompt for `vllm.LLM.generate`."""

    @abstractmethod
    def request(self) -> tuple[str, Body]:
        """The endpoint's path under `/v1`, and the part of the request's body with picture and prompt."""


@dataclass(frozen=True, eq=False)
class RowsAsPictures(EngineInput):
    """The picture and each row as image embeddings, a row as a picture of one token.

    Args:
        embeddings: `(T + R) × (D · levels)`, visual tokens, then rows; each followed by its deepstack
            features, which are zero for rows.
        prompt: rendered, with a placeholder for the picture and one for each row.
        grids: `(1 + R) × 3`: frames, height and width of the picture in patches, and of each row.
    """

    options: ClassVar = {"enable_mm_embeds": True}
    flags: ClassVar = ("--enable-mm-embeds", "--trust-request-chat-template")

    prompt: str
    grids: Tensor

    @classmethod
    def of(
        cls, backbone: CausalBackbone, features: Features, prompt: Prompt, rows: Sequence[ConceptRows]
    ) -> RowsAsPictures:
        """The input for an encoded picture."""
        tokens = torch.cat([features.tokens, *features.deepstack], 1)
        own = [
            functional.pad(one, (0, tokens.shape[1] - one.shape[1])).to(tokens)
            for one in _scaled_rows(features.tokens, rows)
        ]
        count = sum(map(len, own))
        merged = backbone.model.config.vision_config.spatial_merge_size
        grid = features.layout.inputs["image_grid_thw"]
        grids = torch.cat([grid, grid.new_tensor([[1, merged, merged]]).expand(count, 3)])
        mark = str(backbone.processor.image_token)
        rendered = backbone.prompter.render(prompt).replace(mark, mark * (1 + count))
        return cls(torch.cat([tokens, *own]).cpu(), rendered, grids.cpu())

    def offline(self) -> dict[str, Any]:
        given = {"image_embeds": self.embeddings, "image_grid_thw": self.grids}
        return {"prompt": self.prompt, "multi_modal_data": {"image": given}}

    def request(self) -> tuple[str, Body]:
        lengths = [len(self.embeddings) - len(self.grids) + 1, *[1] * (len(self.grids) - 1)]
        parts: list[Any] = [
            {
                "type": "image_embeds",
                "image_embeds": {"image_embeds": encoded(own), "image_grid_thw": encoded(grid)},
            }
            for own, grid in zip(torch.split(self.embeddings, lengths), self.grids, strict=True)
        ]
        content = [*parts, {"type": "text", "text": self.prompt}]
        body = {"messages": [{"role": "user", "content": content}], "chat_template": PASS_THROUGH_TEMPLATE}
        return "/chat/completions", body


@dataclass(frozen=True, eq=False)
class WholePrompt(EngineInput):
    """`S × D`: the input embeddings of the language model, for text, visual tokens and rows."""

    options: ClassVar = {"enable_prompt_embeds": True}
    flags: ClassVar = ("--enable-prompt-embeds",)

    @classmethod
    def of(
        cls, backbone: CausalBackbone, features: Features, prompt: Prompt, rows: Sequence[ConceptRows]
    ) -> WholePrompt:
        """The input for an encoded picture."""
        ids = backbone.prompter.prompt_ids(prompt, features.layout.text)
        place = place_after_last(ids, backbone.image_id)
        read = _prompt_embeddings(backbone, ids, backbone.image_id, backbone.entering(features))
        own = [one.to(read) for one in _scaled_rows(features.tokens, rows)]
        return cls(torch.cat([read[:place], *own, read[place:]]).cpu())

    @classmethod
    def of_queries(cls, backbone: Blip2Backbone, queries: Tensor, prompt: Prompt) -> WholePrompt:
        """The input for a Q-Former's projected output, `Q × D`, which includes the rows' effect."""
        ids = backbone.prompter.prompt_ids(prompt)
        return cls(_prompt_embeddings(backbone, ids, backbone.prompter.image_id, queries).cpu())

    def offline(self) -> dict[str, Any]:
        return {"prompt_embeds": self.embeddings}

    def request(self) -> tuple[str, Body]:
        return "/completions", {"prompt_embeds": encoded(self.embeddings)}  # "prompt" would add another


InputForm = type[RowsAsPictures] | type[WholePrompt]

INPUT_FORMS: dict[str, InputForm] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), RowsAsPictures),
    **dict.fromkeys(
        (
            *("llava", "blip-2", "llava_next", "llava_next_video", "llava_onevision", "internvl", "idefics3"),
            *("smolvlm", "mistral3", "aya_vision", "aria"),
        ),
        WholePrompt,
    ),
}
"""Model type → the form of its input. `benchmarks/vllm_families.py` tests that each gives the same words.

Not supported: Gemma 3 and 4 and PaliGemma, whose visual tokens attend to each other in both directions;
GLM-4.1V, whose class takes image embeddings but whose input parser takes no grid with them; Gemma 3n, whose
deeper layers get further inputs for each token; Mllama, which reads pictures by cross-attention.
"""


def input_form_of(backbone: Backbone) -> InputForm:
    """The form in which vLLM takes a backbone's input. Raises BackboneError if it takes none."""
    kind = backbone.model.config.model_type
    speaks = isinstance(backbone, CausalBackbone) or (
        isinstance(backbone, Blip2Backbone) and backbone.prompter.causal
    )
    if not speaks or kind not in INPUT_FORMS:
        raise BackboneError(
            "Concepts cannot be used with this model in vLLM.",
            got=f"{backbone.name} ({kind})",
            expected=f"a model of one of these types: {', '.join(INPUT_FORMS)} (BLIP-2 only with OPT)",
            fix="use `MyVLM` directly",
        )
    return INPUT_FORMS[kind]


@torch.no_grad()
def engine_inputs(
    backbone: Backbone,
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[ConceptRows]],
) -> list[EngineInput]:
    """Encode each picture with its prompt and the rows of the concepts detected in it, for vLLM."""
    form = input_form_of(backbone)
    features: Sequence[Any] = backbone.encode(images)
    if isinstance(backbone, Blip2Backbone):
        queries = backbone.projected(features, rows)
        return [
            WholePrompt.of_queries(backbone, own, prompt)
            for own, prompt in zip(queries, prompts, strict=True)
        ]
    assert isinstance(backbone, CausalBackbone), "only two kinds of backbones are supported"
    return [form.of(backbone, *own) for own in zip(features, prompts, rows, strict=True)]


def messages(part: Body, turns: Sequence[str]) -> list[Body]:
    """The chat messages of a conversation; `part`, the picture, is in the first."""
    first, *later = turns
    said = [
        {"role": "user" if place % 2 else "assistant", "content": turn} for place, turn in enumerate(later)
    ]
    return [{"role": "user", "content": [part, {"type": "text", "text": first}]}, *said]


def encoded(tensor: Tensor) -> str:
    """A tensor serialized as vLLM's server reads it, in base64."""
    buffer = io.BytesIO()
    torch.save(tensor.contiguous().clone(), buffer)  # saving a view would save its whole storage
    return base64.b64encode(buffer.getvalue()).decode()


def _scaled_rows(tokens: Tensor, rows: Sequence[ConceptRows]) -> list[Tensor]:
    """Each concept's rows, `R × D`, rescaled as their norm rule says."""
    norms = visual_norms(tokens)
    return [one.entering(norms) for one in rows]


def _prompt_embeddings(backbone: Backbone, ids: Sequence[int], image_id: int, picture: Tensor) -> Tensor:
    """A prompt's embeddings, `S × D`, with visual tokens in place of the picture's placeholders."""
    own = torch.tensor(ids, device=backbone.device)
    read: Tensor = backbone.model.get_input_embeddings()(own).clone()
    read[own == image_id] = picture.to(read)
    return read
