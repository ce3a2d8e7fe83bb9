"""How a picture with concepts enters the model classes of vLLM (read in 0.32's files), none of them changed.

By pictures of one token: Qwen-VL's place a picture's tokens by its grid (M-RoPE), in which rows have no cell.
But a picture of one token stands where a word would stand, so each row is such a picture behind the real one.
What deeper layers add to visual tokens (deepstack) is nought for it.

By the whole prompt: every class takes a prompt's embeddings instead of its words, the picture's tokens and
the rows in their places. That is right where a language model is told nothing else of a token: positions
count on, and each token attends to those before it. LLaVA's class also takes a picture's tokens and the rows
behind them as the embeddings of one picture, but not two of different lengths in one step of its engine.
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
"""Of a request to vLLM's server."""

AS_WRITTEN = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""A chat template for a prompt that was rendered here, the placeholders of pictures in their places."""


@dataclass(frozen=True, eq=False)
class EngineInput(ABC):
    """One picture with the concepts that are seen in it, and a prompt, as vLLM is given them.

    Args:
        embeddings: on the CPU; see the ways.
    """

    options: ClassVar[dict[str, bool]]
    """Of vLLM's engine."""
    flags: ClassVar[tuple[str, ...]]
    """Of its server."""

    embeddings: Tensor

    @abstractmethod
    def offline(self) -> dict[str, Any]:
        """What `vllm.LLM.generate` takes."""

    @abstractmethod
    def request(self) -> tuple[str, Body]:
        """The path under the server's `/v1`, and what a request's body says of picture and prompt."""


@dataclass(frozen=True, eq=False)
class PicturesOfRows(EngineInput):
    """`(T + R) × (D · levels)`: the picture's tokens with what deeper layers are given, and the rows.

    Args:
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
    ) -> PicturesOfRows:
        """What is given of kept features."""
        tokens = torch.cat([features.tokens, *features.deepstack], 1)
        own = [
            functional.pad(one, (0, tokens.shape[1] - one.shape[1])).to(tokens)
            for one in _entering(features.tokens, rows)
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
        body = {"messages": [{"role": "user", "content": content}], "chat_template": AS_WRITTEN}
        return "/chat/completions", body


@dataclass(frozen=True, eq=False)
class WholePrompt(EngineInput):
    """`S × D`: the embeddings of all that the language model reads, words, picture and rows."""

    options: ClassVar = {"enable_prompt_embeds": True}
    flags: ClassVar = ("--enable-prompt-embeds",)

    @classmethod
    def of(
        cls, backbone: CausalBackbone, features: Features, prompt: Prompt, rows: Sequence[ConceptRows]
    ) -> WholePrompt:
        """What is given of kept features."""
        ids = backbone.prompter.prompt_ids(prompt, features.layout.text)
        place = place_after_last(ids, backbone.image_id)
        read = _read(backbone, ids, backbone.image_id, backbone.entering(features))
        own = [one.to(read) for one in _entering(features.tokens, rows)]
        return cls(torch.cat([read[:place], *own, read[place:]]).cpu())

    @classmethod
    def of_queries(cls, backbone: Blip2Backbone, queries: Tensor, prompt: Prompt) -> WholePrompt:
        """The same of what a Q-Former took from picture and rows, `Q × D`."""
        ids = backbone.prompter.prompt_ids(prompt)
        return cls(_read(backbone, ids, backbone.prompter.image_id, queries).cpu())

    def offline(self) -> dict[str, Any]:
        return {"prompt_embeds": self.embeddings}

    def request(self) -> tuple[str, Body]:
        return "/completions", {"prompt_embeds": encoded(self.embeddings)}  # "prompt" would be another one


Way = type[PicturesOfRows] | type[WholePrompt]

WAYS: dict[str, Way] = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), PicturesOfRows),
    **dict.fromkeys(
        (
            *("llava", "blip-2", "llava_next", "llava_next_video", "llava_onevision", "internvl", "idefics3"),
            *("smolvlm", "mistral3", "aya_vision", "aria"),
        ),
        WholePrompt,
    ),
}
"""By model type; `benchmarks/vllm_families.py` shows each, word for word.

Not Gemma 3 and 4 and PaliGemma, in which a picture's tokens attend to one another both ways; nor GLM-4.1V,
whose class knows image embeddings while its reader of inputs takes no grid beside them; nor what tells deeper
layers of a token (Gemma 3n), or reads pictures behind its states (Mllama).
"""


def way_of(backbone: Backbone) -> Way:
    """How what this backbone makes enters vLLM. Raises BackboneError where it does not."""
    kind = backbone.model.config.model_type
    speaks = isinstance(backbone, CausalBackbone) or (
        isinstance(backbone, Blip2Backbone) and backbone.prompter.causal
    )
    if not speaks or kind not in WAYS:
        raise BackboneError(
            "vLLM takes no embeddings of this family to which concepts could be added.",
            got=f"{backbone.name} ({kind})",
            expected=f"a model of a type among {', '.join(WAYS)}, a BLIP-2 with OPT",
            fix="speak with it through `MyVLM` itself",
        )
    return WAYS[kind]


@torch.no_grad()
def engine_inputs(
    backbone: Backbone,
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    rows: Sequence[Sequence[ConceptRows]],
) -> list[EngineInput]:
    """What vLLM is given of each picture, its prompt and the rows of what is seen in it."""
    way = way_of(backbone)
    features: Sequence[Any] = backbone.encode(images)
    if isinstance(backbone, Blip2Backbone):
        queries = backbone.projected(features, rows)
        return [
            WholePrompt.of_queries(backbone, own, prompt)
            for own, prompt in zip(queries, prompts, strict=True)
        ]
    assert isinstance(backbone, CausalBackbone), "of the two kinds that have a way"
    return [way.of(backbone, *own) for own in zip(features, prompts, rows, strict=True)]


def messages(part: Body, turns: Sequence[str]) -> list[Body]:
    """A conversation about a picture, which the first message holds."""
    first, *later = turns
    said = [
        {"role": "user" if place % 2 else "assistant", "content": turn} for place, turn in enumerate(later)
    ]
    return [{"role": "user", "content": [part, {"type": "text", "text": first}]}, *said]


def encoded(tensor: Tensor) -> str:
    """A tensor as vLLM's server reads it."""
    buffer = io.BytesIO()
    torch.save(tensor.contiguous().clone(), buffer)  # a view would bring along what it is a part of
    return base64.b64encode(buffer.getvalue()).decode()


def _entering(tokens: Tensor, rows: Sequence[ConceptRows]) -> list[Tensor]:
    """Each concept's rows at the norm that they enter with, `R × D`."""
    norms = visual_norms(tokens)
    return [one.entering(norms) for one in rows]


def _read(backbone: Backbone, ids: Sequence[int], image_id: int, picture: Tensor) -> Tensor:
    """The embeddings of a prompt, a picture's tokens in the places of its placeholders: `S × D`."""
    own = torch.tensor(ids, device=backbone.device)
    read: Tensor = backbone.model.get_input_embeddings()(own).clone()
    read[own == image_id] = picture.to(read)
    return read
