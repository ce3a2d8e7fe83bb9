"""The endpoints `/v1/chat/completions` and `/v1/models`, as OpenAI's clients use them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from myvlm.api import MyVLM
from myvlm.backbones.tokens import Prompt
from myvlm.concepts.concept import Concept
from myvlm.heads.detections import Detection
from myvlm.images import LoadedImage
from myvlm.serving.http.errors import AsciiJson, Refusal, Streamed, as_refusal, error_body
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Owners
from myvlm.serving.http.pictures import Pictures
from myvlm.serving.http.speaking.asking import (
    CountedReply,
    Engine,
    EngineRequest,
    Options,
    check_context_length,
    hinted_absent,
)
from myvlm.serving.http.speaking.looking import DetectionQueue, DetectionRequest, present
from myvlm.speaking.addressing import Names
from myvlm.text import check_written

router = APIRouter()

MIN_TEMPERATURE = 1e-5
"""Below it a reply is greedy: divided by less, the model's logits overflow."""
_STRICT = ConfigDict(extra="forbid")
_OPENAI_ONLY_FIELDS = (
    "refusal", "audio", "function_call", "tool_calls", "annotations", "reasoning", "reasoning_content",
)  # fmt: skip
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},),
    "logprobs": (False,), "top_logprobs": (0,), "stop": ([],), "response_format": ({"type": "text"},),
    "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
}  # fmt: skip
"""Fields of OpenAI's that are supported only with values that change nothing, which many clients send."""
DEFAULT_TOKENS = 64
"""The token limit of a reply for requests that set none."""


class _Url(BaseModel):
    model_config = _STRICT

    url: str
    detail: str | None = None


class _ImagePart(BaseModel):
    model_config = _STRICT

    type: Literal["image_url"]
    image_url: _Url


class _TextPart(BaseModel):
    model_config = _STRICT

    type: Literal["text"]
    text: str


class _Message(BaseModel):
    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Annotated[_TextPart | _ImagePart, Field(discriminator="type")]]
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_openai_fields(cls, sent: Any) -> Any:
        """Drop the empty fields that OpenAI's clients add to an assistant message when they send it back."""
        if not isinstance(sent, dict) or sent.get("role") != "assistant":
            return sent
        if told := next((name for name in _OPENAI_ONLY_FIELDS if sent.get(name)), None):
            raise ValueError(f"{told}: this server only generates text, without tool calls")
        return {name: value for name, value in sent.items() if name not in _OPENAI_ONLY_FIELDS}

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, _TextPart))

    @property
    def pictures(self) -> list[str]:
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url.url for part in parts if isinstance(part, _ImagePart)]


class _StreamOptions(BaseModel):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(BaseModel):
    """The body of a chat request, as OpenAI's clients write it; `concepts` are those to detect, None for all.

    Other fields are refused unless their values change nothing: ignoring them could change the reply
    without notice. `seed` is accepted without a temperature, as the reply is then always the same.
    """

    model_config = _STRICT

    model: str
    messages: list[_Message] = Field(min_length=1)
    concepts: list[str] | None = None
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: Literal[1] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_fields_without_effect(cls, sent: Any) -> Any:
        if not isinstance(sent, dict):
            return sent
        for name, values in _WITHOUT_EFFECT.items():
            if sent.get(name) is not None and sent[name] not in values:
                raise ValueError(f"{name} is not supported; leave it out or send {json.dumps(values[0])}")
        return {name: value for name, value in sent.items() if name not in _WITHOUT_EFFECT}

    @model_validator(mode="after")
    def _check_seed(self) -> ChatRequest:
        if self.seed is not None and self.temperature:
            raise ValueError("seed is not supported with a temperature; leave one of them out")
        return self

    def tokens(self, limits: Limits) -> int:
        """The token limit of the reply."""
        wanted = self.max_completion_tokens or self.max_tokens or DEFAULT_TOKENS
        if wanted > limits.tokens:
            raise Refusal(400, f"A reply may have at most {limits.tokens} tokens.")
        return wanted

    def options(self, limits: Limits) -> Options:
        """Options of transformers' `generate`: greedy, unless a temperature is given."""
        options: dict[str, Any] = {"max_new_tokens": self.tokens(limits)}
        if self.temperature and self.temperature >= MIN_TEMPERATURE:
            options |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p or 1.0}
        return tuple(options.items())

    def picture(self) -> str:
        """The URL of the one picture, which must be in the user's first message."""
        asked = [one for one in self.messages if one.role == "user"]
        pictures = [one.pictures for one in self.messages]
        if sum(map(len, pictures)) != 1 or not asked or not asked[0].pictures:
            raise Refusal(400, "A conversation needs exactly one picture, in the user's first message.")
        return asked[0].pictures[0]

    def prompt(self, caption: str, limits: Limits) -> Prompt:
        """The prompt: an instruction, or the turns of a conversation, which the user begins and ends.

        System messages are put before the first turn; a first turn without text becomes `caption`.
        """
        system = [one.text for one in self.messages if one.role in ("system", "developer")]
        said = [one for one in self.messages if one.role in ("user", "assistant")]
        roles = [one.role for one in said]
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise Refusal(400, "User and assistant messages must alternate, and the last must be the user's.")
        if any(one.role in ("system", "developer") for one in self.messages[len(system) :]):
            raise Refusal(400, "System messages must come before all other messages.")
        if len(roles) > limits.turns:
            raise Refusal(400, f"A conversation may have at most {limits.turns} messages.")
        turns = [one.text for one in said]
        turns[0] = turns[0] if turns[0].strip() else caption
        if system:
            turns[0] = "\n".join([*system, turns[0]])
        for turn in turns:
            check_written(turn, "message")
            if len(turn) > limits.characters:
                raise Refusal(400, f"A message may have at most {limits.characters} characters.")
        return turns[0] if len(turns) == 1 else tuple(turns)


@dataclass(frozen=True, eq=False)
class _DetectedPicture:
    photo: LoadedImage
    detections: Sequence[Detection]
    concepts: Sequence[Concept]
    names: Names
    absent: Sequence[str] = ()

    def engine_request(
        self, prompt: Prompt, options: Options, on_text: Callable[[str], None] | None = None
    ) -> EngineRequest:
        """The engine's request about this picture."""
        box_of = {one.identifier: one.box for one in self.detections}.get
        return EngineRequest(self.photo, prompt, self.concepts, self.names, options, on_text, box_of)


@router.get("/v1/models")
async def models(request: Request) -> AsciiJson:
    """List the model, the only one."""
    return AsciiJson({"object": "list", "data": [_model(request)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> AsciiJson:
    """Describe the model, by its name."""
    if name != request.app.state.vlm.backbone.name:
        raise Refusal(404, "This server does not have that model.")
    return AsciiJson(_model(request))


@router.post("/v1/chat/completions")
async def complete(request: Request, asked: ChatRequest) -> Response:
    """Reply about a picture, in one response or a stream; its field `myvlm` lists the detected concepts."""
    state = request.app.state
    access: Access = request.state.access
    vlm: MyVLM = state.vlm
    limits: Limits = state.limits
    pictures: Pictures = state.pictures
    if asked.model != vlm.backbone.name:
        raise Refusal(404, f"This server does not have that model; it has {vlm.backbone.name}.")
    prompt, options = asked.prompt(vlm.backbone.caption_prompt, limits), asked.options(limits)
    check_context_length(vlm.backbone, prompt, asked.tokens(limits))
    reply = _Reply(vlm.backbone.name, asked.tokens(limits))
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(limits.seconds):
            [photo] = await stack.enter_async_context(pictures.read(access.owner, [asked.picture()]))
            seen = await _detect(state, access.owner, photo, prompt, asked.concepts)
            reply.detections, reply.absent = list(seen.detections), list(seen.absent)
            if not asked.stream:
                said = await state.engine.reply(seen.engine_request(prompt, options))
                return AsciiJson(reply.whole(said))
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        prefixes = _reply_prefixes(state.engine, prompt, seen, options)
        return Streamed(_stream(reply, prefixes, usage=usage, seconds=limits.seconds), kept=stack.pop_all())


async def _detect(
    state: Any, owner: str, photo: LoadedImage, prompt: Prompt, chosen: list[str] | None
) -> _DetectedPicture:
    owners: Owners = state.owners
    queue: DetectionQueue = state.detection_queue
    for again in (True, False):
        loaded = await asyncio.to_thread(owners.loaded, owner)
        library = loaded.library
        for name in chosen or ():
            library[name]  # raises UnknownConceptError if there is none
        if chosen == [] or not library:
            return _DetectedPicture(photo, [], [], Names(state.vlm.backbone))
        found = await queue.process(DetectionRequest(library, photo))
        concepts, names = present(library, found, chosen), loaded.names(state.vlm.backbone)
        absent = await asyncio.to_thread(hinted_absent, state.vlm, prompt, concepts, names)
        if absent is not None:
            there = {concept.identifier for concept in concepts}
            found = [one for one in found if one.identifier in there]
            return _DetectedPicture(photo, found, concepts, names, absent)
        if again:
            owners.drop_from_cache(owner)
    raise Refusal(409, "The concepts are being changed. Send the request again.")


async def _reply_prefixes(
    engine: Engine, prompt: Prompt, seen: _DetectedPicture, options: Options
) -> AsyncGenerator[str | CountedReply]:
    """Yield the reply so far whenever it has grown, and the whole reply at the end."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue()

    def on_text(text: str) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, text)

    done = asyncio.ensure_future(engine.reply(seen.engine_request(prompt, options, on_text)))
    grown = asyncio.ensure_future(queue.get())
    try:
        while not done.done():
            await asyncio.wait({done, grown}, return_when=asyncio.FIRST_COMPLETED)
            if grown.done():
                yield grown.result()
                grown = asyncio.ensure_future(queue.get())
        yield done.result()
    finally:
        grown.cancel()
        done.cancel()


async def _stream(
    reply: _Reply, prefixes: AsyncGenerator[str | CountedReply], *, usage: bool, seconds: float
) -> AsyncIterator[str]:
    yield _event({**reply.chunk({"role": "assistant", "content": ""}), "myvlm": reply.seen()})
    sent = ""
    try:
        async with asyncio.timeout(seconds), aclosing(prefixes):
            async for so_far in prefixes:
                text = so_far.text if isinstance(so_far, CountedReply) else so_far
                if text.startswith(sent) and len(text) > len(sent):
                    yield _event(reply.chunk({"content": text[len(sent) :]}))
                    sent = text
                if isinstance(so_far, CountedReply):
                    yield _event(reply.chunk({}, finish=reply.finish(so_far)))
                    if usage:
                        yield _event({**reply.chunk({}), "choices": [], "usage": _usage(so_far)})
    except Exception as error:
        refusal = as_refusal(error)
        yield _event(error_body(refusal.status_code, refusal.detail))
    yield "data: [DONE]\n\n"


class _Reply:
    """Builds the response documents of one reply, whole or as chunks of a stream."""

    def __init__(self, model: str, tokens: int) -> None:
        self.tokens = tokens
        self.detections: list[Detection] = []
        self.absent: list[str] = []
        self._head = {"id": f"chatcmpl-{uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, said: CountedReply) -> dict[str, Any]:
        message = {"role": "assistant", "content": said.text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.finish(said), "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(said),
            "myvlm": self.seen(),
        }

    def chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def finish(self, said: CountedReply) -> str:
        return "length" if said.written >= self.tokens else "stop"

    def seen(self) -> dict[str, Any]:
        return {
            "seen": [
                {
                    "identifier": one.identifier,
                    "probability": round(one.probability, 4),
                    "verdict": one.verdict,
                    "box": None if one.box is None else [round(edge, 1) for edge in one.box],
                }
                for one in self.detections
            ],
            "absent": self.absent,
        }


def _usage(said: CountedReply) -> dict[str, int]:
    return {
        "prompt_tokens": said.read,
        "completion_tokens": said.written,
        "total_tokens": said.read + said.written,
    }


def _model(request: Request) -> dict[str, Any]:
    state = request.app.state
    return {
        "id": state.vlm.backbone.name,
        "object": "model",
        "created": state.begun,
        "owned_by": "myvlm",
    }


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document)}\n\n"
