"""Stock vLLM names concepts: to it they are a few embeddings more, behind a picture's.

vLLM (https://docs.vllm.ai, "Embedding Inputs") takes the embeddings of a whole prompt, or a picture's
projected visual tokens in the picture's place. A concept's rows stand behind the picture's tokens (§3.3 of
https://arxiv.org/abs/2403.14599); `entering` says how in which family. Heads, vision tower and projector run
here; nothing of vLLM is changed, and its batching, caching and parallelism hold.
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
from myvlm.errors import InputError
from myvlm.heads.detections import Detections
from myvlm.images import ImageSources, LoadedImage, listed, load_images
from myvlm.results import Replies, Reply
from myvlm.serving.entering import EngineInput, engine_inputs, way_of
from myvlm.speaking.addressing import Names, address, named

if TYPE_CHECKING:
    from openai import OpenAI

AT_ONCE = 16
"""Pictures that are encoded together, and requests that are under way together."""


@dataclass(frozen=True, eq=False)
class VllmInput:
    """One picture with the concepts that are seen in it, as vLLM is given it.

    Args:
        given: the picture, the rows of what is seen in it, and the prompt.
        detections: one for each concept of the library, present or not.
        picture: what it is about; of many pictures where it lies, or a reply would hold it in memory.
        named: what makes a reply one in the user's names.
        unsaid: the names of those that are not seen, where something is, for `SamplingParams(bad_words=…)`.
        absent: those that the prompt names and that are not seen: it says so.
    """

    given: EngineInput
    detections: Detections
    picture: Image.Image | Path
    named: Callable[[str], str] = str
    unsaid: Sequence[str] = ()
    absent: tuple[str, ...] = ()

    @property
    def embeddings(self) -> Tensor:
        """Of the whole prompt, `S × D`, the rows behind the picture's tokens; of Qwen-VL of these alone."""
        return self.given.embeddings

    def offline(self) -> dict[str, Any]:
        """What `vllm.LLM(model, **engine_options(vlm)).generate` takes."""
        return self.given.offline()

    def reply(self, said: str) -> Reply:
        """What vLLM said of it, in the user's names, as `MyVLM.caption` gives it back; it is not read again
        (`LearnSettings.verify`)."""
        return Reply(self.named(said.strip()), self.detections, self.picture, absent=self.absent)


def vllm_inputs(vlm: MyVLM, images: ImageSources, prompt: str | None = None) -> Iterator[VllmInput]:
    """Photo → heads → visual tokens → rows of what is seen: one input a picture, in order, lazily.

    Args:
        vlm: a model of a type that `entering.WAYS` has, with its library. Of its language model only the
            table of words is used, and vLLM must hold the same weights.
        images: paths, folders, patterns, PIL images or arrays.
        prompt: an instruction or question; the family's own for captions where not given.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError, ImageError: of the pictures.
        ConceptFileError: a concept that is seen was learned for another model.

    >>> from myvlm.tinyworld import sample_picture
    >>> vlm = MyVLM.from_pretrained("tinyworld/llava", device="cpu")
    >>> [one] = vllm_inputs(vlm, sample_picture(seed=3))
    >>> tuple(one.offline()["prompt_embeds"].shape)  # 64 of the picture, and the words around it
    (73, 192)
    """
    way_of(vlm.backbone)
    asked = prompt or vlm.backbone.caption_prompt
    sources, _ = listed(images)
    names = Names(vlm.backbone, vlm.concepts.values())
    for start in range(0, len(sources), AT_ONCE):
        photos = load_images(sources[start : start + AT_ONCE])
        yield from _inputs(vlm, photos, asked, names, kept=len(sources) <= AT_ONCE)


def engine_options(vlm: MyVLM) -> dict[str, bool]:
    """Options of vLLM's engine under which it takes what `vllm_inputs` makes.

    >>> engine_options(MyVLM.from_pretrained("tinyworld/llava", device="cpu"))
    {'enable_prompt_embeds': True}
    """
    return dict(way_of(vlm.backbone).options)


def server_flags(vlm: MyVLM) -> list[str]:
    """The same for `vllm serve`.

    >>> server_flags(MyVLM.from_pretrained("tinyworld/llava", device="cpu"))
    ['--enable-prompt-embeds']
    """
    return list(way_of(vlm.backbone).flags)


def bad_words(words: Sequence[str]) -> dict[str, list[str]]:
    """Of a request to vLLM's server: what it may not say, where there is such a word."""
    return {"bad_words": list(words)} if words else {}


def body_of(path: str, body: Mapping[str, Any], tokens: int) -> dict[str, Any]:
    """The body of a request to vLLM's server, with the most tokens of its reply under the path's name."""
    return {**body, "max_tokens" if path == "/completions" else "max_completion_tokens": tokens}


class VllmServer:
    """A running vLLM server as the language model of a `MyVLM`: it recognises here and speaks there.

    Start the server with `server_flags(vlm)`, on the weights that `vlm` holds. Prompts are rendered here.

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
        way_of(vlm.backbone)
        self.vlm = vlm
        self.at_once = at_once
        self.client = _client(url, api_key)
        self.model = model or next(iter(self.client.models.list())).id

    def caption(self, images: ImageSources, *, prompt: str | None = None, **sampling: Any) -> Replies:
        """Describe pictures, naming the concepts that are in them.

        Args:
            images: see `vllm_inputs`.
            prompt: an instruction instead of the family's own.
            sampling: of the request, such as `temperature` or `max_tokens`; greedy, up to 64 tokens, where
                not given.
        """
        replies: list[Reply] = []
        waiting: deque[Future[Reply]] = deque()
        with ThreadPoolExecutor(self.at_once) as pool:
            # The next pictures are encoded here while the last are spoken of there, and no more than these.
            for one in vllm_inputs(self.vlm, images, prompt):
                waiting.append(pool.submit(self.reply, one, sampling))
                if len(waiting) > 2 * self.at_once:
                    replies.append(waiting.popleft().result())
            return Replies([*replies, *(reply.result() for reply in waiting)])

    def ask(self, images: ImageSources, question: str, **sampling: Any) -> Replies:
        """Answer a question about pictures; see `caption`."""
        return self.caption(images, prompt=question, **sampling)

    def reply(self, one: VllmInput, sampling: Mapping[str, Any]) -> Reply:
        """What the server says of one input; `sampling` is what the request's body says beside it."""
        path, asked = one.given.request()
        own = {"temperature": 0, **sampling}
        tokens = own.pop("max_tokens", own.pop("max_completion_tokens", 64))
        body = body_of(path, {"model": self.model, **asked, **bad_words(one.unsaid), **own}, tokens)
        # By path: one of the two takes what the client's own methods do not know.
        [choice] = self.client.post(path, body=body, cast_to=dict[str, Any])["choices"]
        said = choice["text"] if path == "/completions" else choice["message"]["content"]
        return one.reply(said or "")


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
    vlm: MyVLM, photos: list[LoadedImage], prompt: str, names: Names, *, kept: bool
) -> Iterator[VllmInput]:
    """Of some photos, which the replies hold where they are few (`kept`); else where they lie."""
    backbone = vlm.backbone
    found = vlm.concepts.recognise(photos)
    seen = [vlm.concepts.present(detections) for detections in found]
    asked = [address(backbone, prompt, own, names.absent(prompt, own)) for own in seen]
    images, prompts = [photo.image for photo in photos], [one.prompt for one in asked]
    made = engine_inputs(backbone, images, prompts, [one.rows for one in asked])
    for photo, detections, own, said, entry in zip(photos, found, seen, asked, made, strict=True):
        yield VllmInput(
            entry,
            detections,
            photo.image if kept or not photo.path else photo.path,
            partial(named, backbone, prompt, concepts=own),
            names.others(own),
            said.absent,
        )
