"""A stand-in of vLLM and its server: the frozen model answers pictures and prompt embeddings."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any

import torch
from PIL import Image

from myvlm import MyVLM

MODEL = "tiny"


class StandIn:
    """Generates replies to the embeddings of a prompt, or to a picture.

    Attributes:
        asked: bodies of the requests in order.
        tokens: per request, the number of tokens that are not words: the picture's, and rows.
        key: API key that clients must send, if any.
        fails, says: status to answer instead, and its message.
    """

    def __init__(self, vlm: MyVLM) -> None:
        self.model, self.processor = vlm.backbone.model, vlm.backbone.processor
        self.lock = Lock()
        self.asked: list[dict[str, Any]] = []
        self.tokens: list[int] = []
        self.key: str | None = None
        self.fails, self.says = 0, ""

    def spelled(self, text: str) -> str:
        """A text as the tokenizer decodes it."""
        ids = self.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return str(self.processor.tokenizer.decode(ids))

    def words(self, embeds: torch.Tensor) -> tuple[str, int]:
        """The words of an embedded prompt (S × D), and its number of tokens that are not words."""
        table = self.model.get_input_embeddings().weight.detach()
        same = (embeds[:, None] == table).all(-1)
        ids = same.int().argmax(1)[same.any(1)].tolist()
        return str(self.processor.tokenizer.decode(ids)), len(embeds) - len(ids)

    def chat(self, body: dict[str, Any]) -> tuple[list[str], int]:
        """The reply about a picture, in pieces of one token, and the number of prompt tokens."""
        assert body["model"] == MODEL
        assert body["temperature"] == 0
        [first, *later] = body["messages"]
        part, text = first["content"]
        embeddings = self._embeddings(part)
        turns = [{"role": "user", "content": [{"type": "image"}, text]}]
        turns += [{**one, "content": [{"type": "text", "text": one["content"]}]} for one in later]
        prompt = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        self.asked.append(body)
        self.tokens.append(len(embeddings))
        image, tokenizer = self.processor.image_token, self.processor.tokenizer
        ids = tokenizer(prompt.replace(image, image * len(embeddings)), add_special_tokens=False)
        ids = torch.tensor(ids["input_ids"])
        embeds = self.model.get_input_embeddings()(ids).detach()
        embeds[ids == tokenizer.convert_tokens_to_ids(image)] = embeddings.to(embeds)
        return self._pieces(embeds, body["max_completion_tokens"]), len(embeds)

    def complete(self, body: dict[str, Any]) -> tuple[list[str], int]:
        """The same for a prompt of embeddings."""
        assert body["model"] == MODEL
        assert body["temperature"] == 0
        assert "prompt" not in body, "vLLM takes it for one more, and refuses an empty one"
        data = io.BytesIO(base64.b64decode(body["prompt_embeds"]))
        embeds: torch.Tensor = torch.load(data, weights_only=True)
        self.asked.append(body)
        self.tokens.append(self.words(embeds)[1])
        return self._pieces(embeds, body["max_tokens"]), len(embeds)

    def told(self, body: dict[str, Any]) -> str:
        """The words of a request whose prompt is embeddings."""
        embeds: torch.Tensor = torch.load(
            io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True
        )
        return self.words(embeds)[0]

    def generate(self, embeds: torch.Tensor, tokens: int = 64) -> str:
        """The reply to an embedded prompt (S × D)."""
        return self._decoded(self._generated(embeds, tokens))

    def _pieces(self, embeds: torch.Tensor, tokens: int) -> list[str]:
        ids = self._generated(embeds, tokens)
        grown = [self._decoded(ids[:end]) for end in range(len(ids) + 1)]
        return [" ", *(now[len(before) :] for before, now in itertools.pairwise(grown))]

    def _embeddings(self, part: dict[str, Any]) -> torch.Tensor:
        assert part["type"] == "image_url"
        data = io.BytesIO(base64.b64decode(part["image_url"]["url"].partition("base64,")[2]))
        pixels = self.processor.image_processor(Image.open(data).convert("RGB"), return_tensors="pt")
        with self.lock, torch.no_grad():
            features = self.model.get_image_features(**pixels)
        [features] = getattr(features, "pooler_output", features)
        return torch.as_tensor(features)

    def _generated(self, embeds: torch.Tensor, tokens: int) -> list[int]:
        with self.lock, torch.no_grad():
            new = self.model.generate(
                inputs_embeds=embeds[None], attention_mask=torch.ones(1, len(embeds), dtype=torch.long),
                do_sample=False, max_new_tokens=tokens,
            )  # fmt: skip
        return [int(one) for one in new[0]]

    def _decoded(self, ids: list[int]) -> str:
        return str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))


def serving(engine: StandIn) -> AbstractContextManager[str]:
    """Answer as vLLM's server does inside this context; yields the address."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response, StreamingResponse
    from starlette.routing import Route

    from myvlm.serving.http.app import running

    def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def complete(request: Request) -> Response:
        if engine.key and request.headers.get("authorization") != f"Bearer {engine.key}":
            return JSONResponse({"error": {"message": "Unauthorized"}}, 401)
        if engine.fails:
            return JSONResponse({"error": {"message": engine.says}}, engine.fails)
        body = await request.json()
        chats = "messages" in body
        pieces, read = await run_in_threadpool(engine.chat if chats else engine.complete, body)
        written = len(pieces) - 1
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        head = {"id": "1", "created": 0, "model": MODEL}
        if body.get("stream"):
            events = _events(head, pieces, usage, chats)
            return StreamingResponse(events, media_type="text/event-stream")
        said = "".join(pieces)
        own = {"message": {"role": "assistant", "content": said}} if chats else {"text": said}
        choice = {"index": 0, "finish_reason": "stop", **own}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    asking = [
        Route(f"/v1/{path}", complete, methods=["POST"]) for path in ("chat/completions", "completions")
    ]
    return running(Starlette(routes=[Route("/v1/models", models), *asking]))


def _events(head: dict[str, Any], pieces: list[str], usage: dict[str, int], chats: bool) -> Iterator[str]:
    def event(document: dict[str, Any]) -> str:
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **document})}\n\n"

    for piece in pieces:
        own = {"delta": {"role": "assistant", "content": piece}} if chats else {"text": piece}
        yield event({"choices": [{"index": 0, **own, "finish_reason": None}]})
    own = {"delta": {}} if chats else {"text": ""}
    yield event({"choices": [{"index": 0, **own, "finish_reason": "stop"}]})
    yield event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"
