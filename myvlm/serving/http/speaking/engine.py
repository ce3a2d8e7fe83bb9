"""A vLLM server as the engine: pictures are looked at and encoded here, and spoken of there."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx

from myvlm.api import MyVLM
from myvlm.backbones.tokens import turns_of
from myvlm.errors import InputError
from myvlm.images import LoadedImage, naming
from myvlm.serving.http.errors import Refusal
from myvlm.serving.http.speaking.asking import Ask, CountedReply, Settled
from myvlm.serving.http.speaking.queue import Batches
from myvlm.serving.vllm import bad_words, embeddings_of, embeds_part, takes_chat
from myvlm.speaking.addressing import Address, address, named

Message = dict[str, Any]


class VllmEngine:
    """A vLLM server that holds the weights of the model here, started with `engine_options`.

    A picture with concepts goes there as its projected tokens with their rows behind them; one in which
    nothing is seen as it is.

    Args:
        vlm: of a family that vLLM takes embeddings of; its vision tower and projector are used here.
        url: of the server's OpenAI interface, such as `http://localhost:8001/v1`.
        key: what it asks of its clients, where it does.
        at_once: pictures that are encoded together.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError: nothing answers there as such a server does.
    """

    def __init__(self, vlm: MyVLM, url: str, *, key: str | None = None, at_once: int) -> None:
        self.backbone = takes_chat(vlm)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.model = _model_at(url, headers)
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=None)
        self.batches: Batches[Ask, list[Message]] = Batches(
            self._messages, key=lambda one: None, at_most=at_once
        )

    async def say(self, asked: Ask) -> CountedReply:
        """The reply, in the owner's words."""
        body = {
            "model": self.model,
            "messages": await self.batches.do(asked),
            **_sampling(dict(asked.options)),
            **bad_words(asked.names.others(asked.seen)),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        text, usage = "", {"prompt_tokens": 0, "completion_tokens": 0}
        settled = Settled(self.backbone, asked)
        try:
            async with self.client.stream("POST", "/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    event = _event(line)
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        text += choice["delta"].get("content") or ""
                        settled.tell(text.strip())
        except httpx.HTTPError:
            raise Refusal(503, "The engine that speaks does not answer.") from None
        said = named(self.backbone, asked.prompt, text.strip(), asked.seen)
        return CountedReply(said, usage["prompt_tokens"], usage["completion_tokens"])

    async def close(self) -> None:
        """Begin no more work."""
        self.batches.close()
        await self.client.aclose()

    def _messages(self, asked: Sequence[Ask]) -> list[list[Message]]:
        """What the engine is told of each: the first message holds the picture, or its tokens and rows."""
        addressed = [
            address(self.backbone, one.prompt, one.seen, one.names.absent(one.prompt, one.seen))
            for one in asked
        ]
        seen = [place for place, one in enumerate(addressed) if one.rows]
        photos = [asked[place].photo for place in seen]
        parts: dict[int, Message] = {}
        if photos:
            images, rows = [photo.image for photo in photos], [addressed[place].rows for place in seen]
            with naming(photos, self.backbone.encode):
                made = embeddings_of(self.backbone, images, rows)
            parts = {place: dict(embeds_part(one)) for place, one in zip(seen, made, strict=True)}
        return [
            self._turns(parts.get(place) or _picture_part(asked[place].photo), own)
            for place, own in enumerate(addressed)
        ]

    def _turns(self, part: Message, own: Address) -> list[Message]:
        first, *later = turns_of(own.prompt)
        text = {"type": "text", "text": self.backbone.instruction(first)}
        said = [
            {"role": "user" if place % 2 else "assistant", "content": turn}
            for place, turn in enumerate(later)
        ]
        return [{"role": "user", "content": [part, text]}, *said]


def _model_at(url: str, headers: dict[str, str]) -> str:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=10)
        return str(answer.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise InputError(
            "There is no vLLM server to speak through.",
            got=f"{url}: {type(error).__name__}",
            expected="the address of its OpenAI interface, such as http://127.0.0.1:8001/v1",
            fix="start it, with --enable-mm-embeds; its key goes into MYVLM_ENGINE_KEY",
        ) from None


def _sampling(options: dict[str, Any]) -> dict[str, Any]:
    """Options of transformers' `generate` as OpenAI's interface has them."""
    return {
        "max_completion_tokens": options["max_new_tokens"],
        "temperature": options.get("temperature", 0),
        "top_p": options.get("top_p", 1.0),
    }


def _picture_part(photo: LoadedImage) -> Message:
    """The picture as it was measured and turned here, pixel by pixel."""
    buffer = io.BytesIO()
    photo.image.save(buffer, "PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _event(line: str) -> dict[str, Any]:
    """What a line of the stream says; an error ends it."""
    kind, _, data = line.partition(": ")
    if kind != "data" or data == "[DONE]":
        return {}
    try:
        event = json.loads(data)
    except ValueError:
        raise Refusal(502, "The engine that speaks said something else than a reply.") from None
    if not isinstance(event, dict) or "error" in event:
        raise Refusal(502, "The engine that speaks failed.")
    return event


def _refusal(status: int, body: bytes) -> Refusal:
    if status == 429:
        return Refusal(429, "The engine that speaks is asked too much at once.")
    if status != 400:
        return Refusal(502, "The engine that speaks failed.")
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        said = "The engine that speaks refused it."
    return Refusal(400, str(said))
