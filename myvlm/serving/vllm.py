"""Run concepts in stock vLLM, as a few more embeddings after those of the picture.

vLLM (https://docs.vllm.ai, "Embedding Inputs") accepts the embeddings of a whole prompt, or projected visual
tokens in place of a picture. A concept's rows follow the visual tokens (§3.3 of
https://arxiv.org/abs/2403.14599); `entering` has the form for each family. Heads, vision tower and projector
run in this process; vLLM is not modified, and its batching, caching and parallelism work as usual.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.errors import import_extra
from myvlm.heads.detections import Detections
from myvlm.images import ImageSources, LoadedImage, listed, load_images
from myvlm.results import Replies, Reply
from myvlm.serving.entering import EngineInput, engine_inputs, input_form_of
from myvlm.speaking.addressing import Names, build_model_input, with_identifiers

if TYPE_CHECKING:
    from openai import OpenAI

AT_ONCE = 16
"""Pictures encoded in one batch, and requests in flight at once."""


@dataclass(frozen=True, eq=False)
class VllmInput:
    """The input of vLLM for one picture and the concepts detected in it.

    Args:
        given: the picture, the rows of the detected concepts, and the prompt.
        detections: one for each concept of the library, present or not.
        picture: the picture; if there are many its path, so that replies do not keep pictures in memory.
        named: puts the user's identifiers into a reply.
        unsaid: names of the concepts that are not detected, for `SamplingParams(bad_words=…)`; empty if no
            concept is detected.
        absent: identifiers of the concepts that the prompt names and a hint in it calls absent.
    """

    given: EngineInput
    detections: Detections
    picture: Image.Image | Path
    named: Callable[[str], str] = str
    unsaid: Sequence[str] = ()
    absent: tuple[str, ...] = ()

    @property
    def embeddings(self) -> Tensor:
        """Of the whole prompt, `S × D`, rows after the visual tokens; for Qwen-VL only of tokens and rows."""
        return self.given.embeddings

    def offline(self) -> dict[str, Any]:
        """The prompt for `vllm.LLM(model, **engine_options(vlm)).generate`."""
        return self.given.offline()

    def reply(self, said: str) -> Reply:
        """Turn vLLM's text into a `Reply` with the user's identifiers, as from `MyVLM.caption`.

        It is not verified (`LearnSettings.verify`).
        """
        return Reply(self.named(said.strip()), self.detections, self.picture, absent=self.absent)


def vllm_inputs(vlm: MyVLM, images: ImageSources, prompt: str | None = None) -> Iterator[VllmInput]:
    """Detect concepts in pictures and encode them: one input for vLLM a picture, in order, lazily.

    Args:
        vlm: a model of a type in `entering.INPUT_FORMS`, with its library. Only the embedding table of its
            language model is used; vLLM must run the same weights.
        images: paths, folders, patterns, PIL images or arrays.
        prompt: an instruction or question; by default the family's instruction for captions.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError, ImageError: a picture cannot be used.
        ConceptFileError: a detected concept was learned for another model.

    >>> from myvlm.tinyworld import sample_picture
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    >>> [one] = vllm_inputs(vlm, sample_picture(seed=3))
    >>> tuple(one.offline()["prompt_embeds"].shape)  # 64 of the picture, and the words around it
    (73, 192)
    """
    input_form_of(vlm.backbone)
    asked = prompt or vlm.backbone.caption_prompt
    sources, _ = listed(images)
    names = Names(vlm.backbone, vlm.concepts.values())
    for start in range(0, len(sources), AT_ONCE):
        photos = load_images(sources[start : start + AT_ONCE])
        yield from _batch_inputs(vlm, photos, asked, names, kept=len(sources) <= AT_ONCE)


def engine_options(vlm: MyVLM) -> dict[str, bool]:
    """The options of `vllm.LLM` that inputs from `vllm_inputs` need.

    >>> engine_options(MyVLM.from_pretrained("tinyworld/llava", device="cpu"))
    {'enable_prompt_embeds': True}
    """
    return dict(input_form_of(vlm.backbone).options)


def server_flags(vlm: MyVLM) -> list[str]:
    """The flags of `vllm serve` that inputs from `vllm_inputs` need.

    >>> server_flags(MyVLM.from_pretrained("tinyworld/llava", device="cpu"))
    ['--enable-prompt-embeds']
    """
    return list(input_form_of(vlm.backbone).flags)


def bad_words(words: Sequence[str]) -> dict[str, list[str]]:
    """The part of a request's body that bans words from the reply; empty if there are none."""
    return {"bad_words": list(words)} if words else {}


def request_body(path: str, body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """A request's body with the reply's token limit, under the key that the path of vLLM's server uses."""
    return {**body, "max_tokens" if path == "/completions" else "max_completion_tokens": tokens}


class VllmServer:
    """A client that detects and encodes in this process, and generates replies on a running vLLM server.

    Start the server with `server_flags(vlm)`, on the weights of `vlm`. Prompts are rendered in this process.

    Args:
        vlm: the model and its library; detects concepts and encodes pictures.
        url: of the server's OpenAI interface, such as `http://localhost:8000/v1`.
        model: the model's name on the server; by default the first that it lists.
        api_key: if the server needs one.
        at_once: requests in flight at once.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        MissingPackageError: the client, `openai`, is not installed.
    """

    def __init__(
        self, vlm: MyVLM, url: str, *, model: str | None = None, api_key: str = "none", at_once: int = AT_ONCE
    ) -> None:
        input_form_of(vlm.backbone)
        self.vlm = vlm
        self.at_once = at_once
        self.client = _client(url, api_key)
        self.model = model or next(iter(self.client.models.list())).id

    def caption(self, images: ImageSources, *, prompt: str | None = None, **sampling: Any) -> Replies:
        """Describe pictures, naming the concepts that are in them.

        Args:
            images: see `vllm_inputs`.
            prompt: an instruction instead of the family's own.
            sampling: parameters of the request, such as `temperature` or `max_tokens`; by default greedy, up
                to 64 tokens.
        """
        replies: list[Reply] = []
        waiting: deque[Future[Reply]] = deque()
        with ThreadPoolExecutor(self.at_once) as pool:
            # Encode the next pictures while the server replies to the last, but not further ahead.
            for one in vllm_inputs(self.vlm, images, prompt):
                waiting.append(pool.submit(self.reply, one, sampling))
                if len(waiting) > 2 * self.at_once:
                    replies.append(waiting.popleft().result())
            return Replies([*replies, *(reply.result() for reply in waiting)])

    def ask(self, images: ImageSources, question: str, **sampling: Any) -> Replies:
        """Answer a question about pictures; see `caption`."""
        return self.caption(images, prompt=question, **sampling)

    def reply(self, one: VllmInput, sampling: Mapping[str, Any]) -> Reply:
        """Send one input to the server; `sampling` is added to the request's body."""
        path, asked = one.given.request()
        own = {"temperature": 0, **sampling}
        tokens = own.pop("max_tokens", own.pop("max_completion_tokens", 64))
        body = request_body(path, {"model": self.model, **asked, **bad_words(one.unsaid), **own}, tokens)
        # Posted by path: the client's own methods lack a field that one of the two endpoints needs.
        [choice] = self.client.post(path, body=body, cast_to=dict[str, Any])["choices"]
        said = choice["text"] if path == "/completions" else choice["message"]["content"]
        return one.reply(said or "")


def _client(url: str, api_key: str) -> OpenAI:
    openai = import_extra("openai", what="The client of vLLM's server", install="myvlm[vllm]")
    client: OpenAI = openai.OpenAI(base_url=url, api_key=api_key)
    return client


def _batch_inputs(
    vlm: MyVLM, photos: list[LoadedImage], prompt: str, names: Names, *, kept: bool
) -> Iterator[VllmInput]:
    """The inputs for a batch; they hold the pictures if `kept`, else the paths of those that have one."""
    backbone = vlm.backbone
    found = vlm.concepts.recognise(photos)
    seen = [vlm.concepts.present(detections) for detections in found]
    asked = [build_model_input(backbone, prompt, own, names.absent(prompt, own)) for own in seen]
    images, prompts = [photo.image for photo in photos], [one.prompt for one in asked]
    made = engine_inputs(backbone, images, prompts, [one.rows for one in asked])
    for photo, detections, own, said, entry in zip(photos, found, seen, asked, made, strict=True):
        yield VllmInput(
            entry,
            detections,
            photo.image if kept or not photo.path else photo.path,
            partial(with_identifiers, backbone, prompt, concepts=own),
            names.banned_words(own),
            said.absent,
        )
