"""`VllmEngine`: detect and encode in this process, and generate replies on a vLLM server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import httpx

from myvlm.api import MyVLM
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.tokens import Prompt, turns_of
from myvlm.errors import InputError
from myvlm.images import LoadedImage, naming
from myvlm.serving.entering import Body, EngineInput, engine_inputs, input_form_of, messages
from myvlm.serving.http.errors import Refusal
from myvlm.serving.http.speaking.asking import CountedReply, EngineRequest, StablePrefix
from myvlm.serving.http.speaking.queue import BatchQueue
from myvlm.serving.vllm import bad_words, request_body
from myvlm.speaking.addressing import build_model_input, with_identifiers


class VllmEngine:
    """An engine that generates on a vLLM server with the same weights, started with `server_flags`.

    A picture with detected concepts is sent as visual tokens followed by rows. One without is sent as a
    picture, if the model has a chat template for that.

    Args:
        vlm: a model of a family whose embeddings vLLM takes; its vision tower and projector are used here.
        url: of the server's OpenAI interface, such as `http://localhost:8001/v1`.
        key: the server's API key, if it needs one.
        at_once: pictures that are encoded in one batch.

    Raises:
        BackboneError: vLLM takes no embeddings of this family.
        InputError: there is no vLLM server at the URL.
    """

    def __init__(self, vlm: MyVLM, url: str, *, key: str | None = None, at_once: int) -> None:
        input_form_of(vlm.backbone)
        self.backbone = vlm.backbone
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.model = _first_model(url, headers)
        self.client = httpx.AsyncClient(base_url=url, headers=headers, timeout=None)
        self.batches: BatchQueue[EngineRequest, tuple[str, Body]] = BatchQueue(
            self._requests, key=lambda one: None, at_most=at_once
        )

    async def reply(self, request: EngineRequest) -> CountedReply:
        """The reply, with the owner's identifiers."""
        path, about = await self.batches.process(request)
        sampling = dict(request.options)
        body = {
            "model": self.model,
            **about,
            "temperature": sampling.get("temperature", 0),
            "top_p": sampling.get("top_p", 1.0),
            **bad_words(request.names.banned_words(request.seen)),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = request_body(path, body, sampling["max_new_tokens"])
        text, usage = "", {"prompt_tokens": 0, "completion_tokens": 0}
        prefix = StablePrefix(self.backbone, request)
        try:
            async with self.client.stream("POST", path, json=body) as answer:
                if answer.status_code != 200:
                    raise _refusal(answer.status_code, await answer.aread())
                async for line in answer.aiter_lines():
                    event = _event(line)
                    usage = event.get("usage") or usage
                    for choice in event.get("choices", ()):
                        text += choice.get("text") or choice.get("delta", {}).get("content") or ""
                        prefix.update(text.strip())
        except httpx.HTTPError:
            raise Refusal(503, "The vLLM server does not respond.") from None
        said = with_identifiers(self.backbone, request.prompt, text.strip(), request.seen)
        return CountedReply(said, usage["prompt_tokens"], usage["completion_tokens"])

    async def close(self) -> None:
        """Start no more work."""
        self.batches.close()
        await self.client.aclose()

    def _requests(self, requests: Sequence[EngineRequest]) -> list[tuple[str, Body]]:
        """Each request's path and the body's part with the picture, or with its visual tokens and rows."""
        inputs = [
            build_model_input(self.backbone, one.prompt, one.seen, one.names.absent(one.prompt, one.seen))
            for one in requests
        ]
        with_embeddings = [
            place for place, one in enumerate(inputs) if one.rows or not self._server_renders_prompts
        ]
        made: dict[int, EngineInput] = {}
        if with_embeddings:
            photos = [requests[place].photo for place in with_embeddings]
            prompts = [inputs[place].prompt for place in with_embeddings]
            with naming(photos, self.backbone.encode):
                images, rows = [photo.image for photo in photos], [inputs[at].rows for at in with_embeddings]
                made = dict(
                    zip(with_embeddings, engine_inputs(self.backbone, images, prompts, rows), strict=True)
                )
        return [
            made[place].request()
            if place in made
            else self._picture_request(requests[place].photo, own.prompt)
            for place, own in enumerate(inputs)
        ]

    @property
    def _server_renders_prompts(self) -> bool:
        """Whether the server can render the prompt around a picture, by the model's own chat template."""
        return isinstance(self.backbone, CausalBackbone) and self.backbone.prompt_template() is None

    def _picture_request(self, photo: LoadedImage, prompt: Prompt) -> tuple[str, Body]:
        assert isinstance(self.backbone, CausalBackbone)
        first, *later = turns_of(prompt)
        turns = [self.backbone.instruction(first), *later]
        return "/chat/completions", {"messages": messages(_picture_part(photo), turns)}


def _first_model(url: str, headers: dict[str, str]) -> str:
    try:
        answer = httpx.get(f"{url.rstrip('/')}/models", headers=headers, timeout=10)
        return str(answer.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise InputError(
            "The vLLM server cannot be reached.",
            got=f"{url}: {type(error).__name__}",
            expected="the address of its OpenAI API, such as http://127.0.0.1:8001/v1",
            fix="start it with the flags of `server_flags`; set MYVLM_ENGINE_KEY to its key",
        ) from None


def _picture_part(photo: LoadedImage) -> Body:
    """The decoded and turned picture, losslessly, as a part of a chat message."""
    buffer = io.BytesIO()
    photo.image.save(buffer, "PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def _event(line: str) -> dict[str, Any]:
    """The document in one line of the stream, `{}` if there is none. Raises Refusal for an error."""
    kind, _, data = line.partition(": ")
    if kind != "data" or data == "[DONE]":
        return {}
    try:
        event = json.loads(data)
    except ValueError:
        raise Refusal(502, "The vLLM server sent an invalid response.") from None
    if not isinstance(event, dict) or "error" in event:
        raise Refusal(502, "The vLLM server failed.")
    return event


def _refusal(status: int, body: bytes) -> Refusal:
    if status == 429:
        return Refusal(429, "The vLLM server has too many requests at once.")
    if status != 400:
        return Refusal(502, "The vLLM server failed.")
    try:
        said = json.loads(body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        said = "The vLLM server rejected the request."
    return Refusal(400, str(said))
