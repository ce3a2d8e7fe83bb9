"""Stock vLLM names concepts: to it a picture with concepts is a few image embeddings more.

vLLM (https://docs.vllm.ai, "Embedding Inputs") takes a picture's projected visual tokens in the picture's
place and makes as many placeholders of its prompt as it is given tokens. A concept's rows stand behind the
picture's tokens (§3.3 of https://arxiv.org/abs/2403.14599), so `T` tokens and `R` rows are `T + R` tokens to
it. Heads, vision tower and projector run here; nothing of vLLM is changed, and its batching, caching and
parallelism hold.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.backbones.base import ConceptRows, visual_norms
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.tokens import heard, only_turn
from myvlm.errors import BackboneError, InputError
from myvlm.heads.detections import Detections
from myvlm.images import ImageSources, LoadedImage, listed, load_images
from myvlm.results import Replies, Reply
from myvlm.speaking.addressing import Names, address
from myvlm.text import replace_words

if TYPE_CHECKING:
    from openai import OpenAI

FAMILIES = ("llava", "llava_next", "llava_onevision", "internvl", "blip2")
"""Families of which vLLM takes `T × D` image embeddings of any `T` (read in vLLM 0.32's model files); of a
BLIP-2 with OPT, what its Q-Former makes of picture and concept together.

Gemma 3 and Cohere's refuse embeddings; the text of PaliGemma's prefix is not bidirectional there; Idefics3
and Mistral 3 count placeholders by the picture's size; Qwen-VL places tokens by the picture's grid, in which
rows have no cell.
"""
ONE_AT_A_TIME = ("llava_next", "llava_onevision", "internvl")
"""Of these a step takes embeddings of one length alone, and their pictures differ in length anyway."""
AT_ONCE = 16
"""Pictures that are encoded together, and requests that are under way together."""


@dataclass(frozen=True, eq=False)
class VllmInput:
    """One picture with the concepts that are seen in it, as vLLM is given it.

    Args:
        prompt: the rendered prompt, with one image placeholder, for `vllm.LLM.generate`.
        instruction: the bare one, which a server renders by its own chat template.
        embeddings: `1 × (T + R) × D` on the CPU: the picture's projected tokens, and the rows of what is
            seen; of a Q-Former `1 × Q × D`, what its queries took from both.
        detections: one for each concept of the library, present or not.
        picture: what it is about.
        names: a concept's learned word, as the model writes it → what the user calls it now.
        unsaid: the names of those that are not seen, where something is, for `SamplingParams(bad_words=…)`.
        absent: those that the prompt names and that are not seen: it says so.
    """

    prompt: str
    instruction: str
    embeddings: Tensor
    detections: Detections
    picture: Image.Image
    names: Mapping[str, str] = field(default_factory=dict)
    unsaid: Sequence[str] = ()
    absent: tuple[str, ...] = ()

    def offline(self) -> dict[str, Any]:
        """What `vllm.LLM(model, **engine_options(vlm)).generate` takes."""
        return {"prompt": self.prompt, "multi_modal_data": {"image": self.embeddings}}

    def content(self) -> list[dict[str, str]]:
        """The content of a user's message to `/v1/chat/completions` of a server with `--enable-mm-embeds`."""
        return [embeds_part(self.embeddings), {"type": "text", "text": self.instruction}]

    def reply(self, said: str) -> Reply:
        """What vLLM said of it, in the user's names, as `MyVLM.caption` gives it back."""
        text = replace_words(said.strip(), self.names)
        return Reply(text, self.detections, self.picture, absent=self.absent)


def vllm_inputs(vlm: MyVLM, images: ImageSources, prompt: str | None = None) -> Iterator[VllmInput]:
    """Photo → heads → visual tokens → rows of what is seen: one input a picture, in order, lazily.

    Args:
        vlm: a model of one of `FAMILIES`, with its library. Of its language model only the table of words is
            used, and vLLM must hold the same weights.
        images: paths, folders, patterns, PIL images or arrays.
        prompt: an instruction or question; the family's own for captions where not given.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError, ImageError: of the pictures.
        ConceptFileError: a concept that is seen was learned for another model.

    >>> from myvlm.tinyworld import sample_picture
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    >>> [one] = vllm_inputs(vlm, sample_picture(seed=3))
    >>> tuple(one.embeddings.shape), one.prompt
    ((1, 64, 192), '<s> user : <image> Describe the image. assistant :')
    """
    backbone = takes_embeddings(vlm)
    asked = prompt or backbone.caption_prompt
    sources, _ = listed(images)
    for start in range(0, len(sources), AT_ONCE):
        photos = load_images(sources[start : start + AT_ONCE])
        yield from _inputs(vlm, backbone, photos, asked)


def engine_options(vlm: MyVLM) -> dict[str, int | bool]:
    """Options of vLLM's engine under which pictures with and without concepts go side by side.

    Its classes stop the engine where one step takes in embeddings of two lengths, as a picture with a
    concept and one without are. So a step of LLaVA must have no room for two pictures: fewer tokens than
    twice a picture's. Prompts that are longer are taken in over several steps. In LLaVA-NeXT, OneVision and
    InternVL, whose pictures are of many lengths, one request runs at a time. Of BLIP-2 all are of one length.

    >>> engine_options(MyVLM.from_pretrained("tinyworld/llava", device="cpu"))
    {'enable_mm_embeds': True, 'max_num_batched_tokens': 127, 'max_num_seqs': 127}
    """
    backbone = takes_embeddings(vlm)
    options: dict[str, int | bool] = {"enable_mm_embeds": True}
    if backbone.family in ONE_AT_A_TIME:
        return {**options, "max_num_seqs": 1}
    if backbone.family != "llava":
        return options
    [features] = backbone.encode([Image.new("RGB", (64, 64))])
    tokens = 2 * len(features) - 1
    return {**options, "max_num_batched_tokens": tokens, "max_num_seqs": min(tokens, 256)}


def takes_embeddings(vlm: MyVLM) -> CausalBackbone | Blip2Backbone:
    """The backbone of a model whose embeddings vLLM takes. Raises BackboneError for one of another family."""
    backbone = vlm.backbone
    if backbone.family in FAMILIES:
        if isinstance(backbone, CausalBackbone):
            return backbone
        if isinstance(backbone, Blip2Backbone) and backbone.prompter.causal:
            return backbone
    raise BackboneError(
        "vLLM takes no image embeddings of this family to which concepts could be added.",
        got=f"{backbone.name} ({backbone.family})",
        expected=f"a model of {', '.join(FAMILIES)}; a BLIP-2 with OPT",
        fix="speak with it through `MyVLM` itself",
    )


def takes_chat(vlm: MyVLM) -> CausalBackbone:
    """The same for vLLM's server, whose chat needs a template. Raises BackboneError for a BLIP-2 too."""
    backbone = takes_embeddings(vlm)
    if isinstance(backbone, CausalBackbone):
        return backbone
    raise BackboneError(
        "vLLM's server has no form of a chat for this family.",
        got=f"{backbone.name} ({backbone.family})",
        expected="a model with a chat template",
        fix="speak with it offline, by `vllm.LLM`, or through `MyVLM` itself",
    )


@torch.no_grad()
def embeddings_of(
    backbone: CausalBackbone | Blip2Backbone,
    images: Sequence[Image.Image],
    rows: Sequence[Sequence[ConceptRows]],
) -> list[Tensor]:
    """Of each picture with the rows of what is seen in it `1 × T × D` on the CPU, as vLLM takes them."""
    if isinstance(backbone, Blip2Backbone):
        return [one[None].cpu() for one in backbone.projected(backbone.encode(images), rows)]
    made = []
    for features, own in zip(backbone.encode(images), rows, strict=True):
        norms = visual_norms(features.tokens)
        made.append(torch.cat([features.tokens, *(one.entering(norms) for one in own)])[None].cpu())
    return made


def embeds_part(embeddings: Tensor) -> dict[str, str]:
    """Image embeddings as a part of a message to a server with `--enable-mm-embeds`."""
    buffer = io.BytesIO()
    torch.save(embeddings, buffer)
    return {"type": "image_embeds", "image_embeds": base64.b64encode(buffer.getvalue()).decode()}


def bad_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Of a request to vLLM's server: what it may not say, where there is such a word."""
    return {"bad_words": list(words)} if words else {}


class VllmServer:
    """A running vLLM server as the language model of a `MyVLM`: it recognises here and speaks there.

    Start the server with `engine_options(vlm)` as its flags, on the weights that `vlm` holds; it renders the
    instruction by the chat template that lies with them.

    Args:
        vlm: recognises and encodes.
        url: of the server's OpenAI interface, such as `http://localhost:8000/v1`.
        model: what the server calls the model; the first that it names where not given.
        api_key: where it wants one.
        at_once: requests that are under way together.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError: the client, `openai`, is not installed.
    """

    def __init__(
        self, vlm: MyVLM, url: str, *, model: str | None = None, api_key: str = "none", at_once: int = AT_ONCE
    ) -> None:
        takes_chat(vlm)
        self.vlm = vlm
        self.at_once = at_once
        self.client = _client(url, api_key)
        self.model = model or next(iter(self.client.models.list())).id

    def caption(self, images: ImageSources, *, prompt: str | None = None, **sampling: Any) -> Replies:
        """Describe pictures, naming the concepts that are in them.

        Args:
            images: see `vllm_inputs`.
            prompt: an instruction instead of the family's own.
            sampling: of the request, such as `temperature`; greedy, up to 64 tokens, where not given.
        """
        options = {"temperature": 0, "max_completion_tokens": 64, **sampling}
        with ThreadPoolExecutor(self.at_once) as pool:
            # The next pictures are encoded here while the last are spoken of there.
            waiting = [pool.submit(self.reply, one, options) for one in vllm_inputs(self.vlm, images, prompt)]
            return Replies(reply.result() for reply in waiting)

    def ask(self, images: ImageSources, question: str, **sampling: Any) -> Replies:
        """Answer a question about pictures; see `caption`."""
        return self.caption(images, prompt=question, **sampling)

    def reply(self, one: VllmInput, options: Mapping[str, Any]) -> Reply:
        """What the server says of one input; `options` are those of the official client's request."""
        messages: Any = [{"role": "user", "content": one.content()}]
        more = {**bad_words(one.unsaid), **options.get("extra_body", {})}
        options = {**options, "extra_body": more} if more else options
        said = self.client.chat.completions.create(model=self.model, messages=messages, **options)
        return one.reply(said.choices[0].message.content or "")


def _client(url: str, api_key: str) -> OpenAI:
    try:
        from openai import OpenAI
    except ImportError as error:
        raise InputError(
            "The client of vLLM's server is not installed.",
            got=str(error),
            expected="the package openai",
            fix='pip install "myvlm[vllm]"',
        ) from error
    return OpenAI(base_url=url, api_key=api_key)


def _inputs(
    vlm: MyVLM, backbone: CausalBackbone | Blip2Backbone, photos: list[LoadedImage], prompt: str
) -> Iterator[VllmInput]:
    names = Names(backbone, vlm.concepts.values())
    found = vlm.concepts.recognise(photos)
    seen = [vlm.concepts.present(detections) for detections in found]
    asked = [address(backbone, prompt, own, names.absent(prompt, own)) for own in seen]
    pictures = embeddings_of(backbone, [photo.image for photo in photos], [one.rows for one in asked])
    for photo, detections, own, said, embeddings in zip(photos, found, seen, asked, pictures, strict=True):
        turn = only_turn(said.prompt)
        yield VllmInput(
            backbone.prompter.render(said.prompt),
            backbone.instruction(turn) if isinstance(backbone, CausalBackbone) else turn,
            embeddings,
            detections,
            photo.image,
            {heard(backbone, concept.spoken): concept.identifier for concept in own},
            names.others(own),
            said.absent,
        )
