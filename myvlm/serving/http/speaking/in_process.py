"""`InProcess`: generate replies in batches, with transformers in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.serving.http.speaking.asking import CountedReply, EngineRequest, StablePrefix
from myvlm.serving.http.speaking.queue import BatchQueue
from myvlm.speaking.addressing import build_model_input, generate_replies


class InProcess:
    """An engine that generates in a thread of its own, so that detection goes on meanwhile.

    Args:
        vlm: its backbone generates.
        at_once: pictures in one batch.
    """

    def __init__(self, vlm: MyVLM, *, at_once: int) -> None:
        self.backbone = vlm.backbone
        self.batches: BatchQueue[tuple[EngineRequest, bool], CountedReply] = BatchQueue(
            lambda batch: self._reply_to_batch([one for one, _ in batch]),
            key=lambda item: (item[0].options, item[0].on_text is None, item[1]),
            at_most=min(at_once, vlm.backbone.images_at_once),
        )

    async def reply(self, request: EngineRequest) -> CountedReply:
        """The reply; requests share a batch if all or none have rows, and all or none are streamed."""
        absent = request.names.absent(request.prompt, request.seen)
        rows = build_model_input(self.backbone, request.prompt, request.seen, absent).rows
        return await self.batches.process((request, bool(rows)))

    async def close(self) -> None:
        """Start no more work."""
        self.batches.close()

    def _reply_to_batch(self, requests: Sequence[EngineRequest]) -> list[CountedReply]:
        streamed = _Streamer(self.backbone, requests)
        options = {**dict(requests[0].options), "streamer": streamed}
        photos, prompts = [one.photo for one in requests], [one.prompt for one in requests]
        seen, names = [one.seen for one in requests], [one.names for one in requests]
        streaming = requests[0].on_text is not None  # streamed text cannot be taken back
        box_lookups = [one.box_of for one in requests]
        said = generate_replies(
            self.backbone, photos, seen, prompts, options, names, box_lookups, verify=not streaming
        )
        read = streamed.read or [0] * len(requests)
        return [CountedReply(one.text, own, len(one.token_ids)) for one, own in zip(said, read, strict=True)]


@dataclass(eq=False)
class _Streamer:
    """A streamer for transformers' `generate`: it is given prompts first, `B × S`, then `B` tokens a step."""

    backbone: Any
    requests: Sequence[EngineRequest]
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids: list[list[int]] = [[] for _ in self.requests]
        self._prefixes = [StablePrefix(self.backbone, one) for one in self.requests]
        self._begun = False

    def put(self, tokens: Tensor) -> None:
        if not self._begun:
            self._begun = True
            pad = self.backbone.processor.tokenizer.pad_token_id
            self.read = [sum(token != pad for token in own) for own in tokens.tolist()]
            return
        for ids, prefix, token in zip(self._ids, self._prefixes, tokens.tolist(), strict=True):
            ids.append(token)
            if prefix.request.on_text and hasattr(self.backbone, "prompter"):
                text, _ = self.backbone.prompter.reply(torch.tensor(ids))
                prefix.update(text)

    def end(self) -> None:
        """Does nothing: `reply` returns the complete reply."""
