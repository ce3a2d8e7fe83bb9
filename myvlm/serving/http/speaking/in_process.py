"""`InProcess`: generate replies in batches, with transformers in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from myvlm.api import MyVLM
from myvlm.serving.http.speaking.asking import Ask, CountedReply, Settled
from myvlm.serving.http.speaking.queue import Batches
from myvlm.speaking.addressing import build_model_input, generate_replies


class InProcess:
    """An engine that generates in a thread of its own, so that detection goes on meanwhile.

    Args:
        vlm: its backbone generates.
        at_once: pictures in one batch.
    """

    def __init__(self, vlm: MyVLM, *, at_once: int) -> None:
        self.backbone = vlm.backbone
        self.batches: Batches[tuple[Ask, bool], CountedReply] = Batches(
            lambda batch: self._speak([one for one, _ in batch]),
            key=lambda item: (item[0].options, item[0].on_text is None, item[1]),
            at_most=min(at_once, vlm.backbone.images_at_once),
        )

    async def say(self, asked: Ask) -> CountedReply:
        """The reply; requests share a batch if all or none have rows, and all or none are streamed."""
        absent = asked.names.absent(asked.prompt, asked.seen)
        rows = build_model_input(self.backbone, asked.prompt, asked.seen, absent).rows
        return await self.batches.do((asked, bool(rows)))

    async def close(self) -> None:
        """Start no more work."""
        self.batches.close()

    def _speak(self, asked: Sequence[Ask]) -> list[CountedReply]:
        streamed = _Streamed(self.backbone, asked)
        options = {**dict(asked[0].options), "streamer": streamed}
        photos, prompts = [one.photo for one in asked], [one.prompt for one in asked]
        seen, names = [one.seen for one in asked], [one.names for one in asked]
        listening = asked[0].on_text is not None  # streamed text cannot be taken back
        where = [one.where for one in asked]
        said = generate_replies(
            self.backbone, photos, seen, prompts, options, names, where, verify=not listening
        )
        read = streamed.read or [0] * len(asked)
        return [CountedReply(one.text, own, len(one.token_ids)) for one, own in zip(said, read, strict=True)]


@dataclass(eq=False)
class _Streamed:
    """A streamer for transformers' `generate`: it is given prompts first, `B × S`, then `B` tokens a step."""

    backbone: Any
    asked: Sequence[Ask]
    read: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ids: list[list[int]] = [[] for _ in self.asked]
        self._settled = [Settled(self.backbone, one) for one in self.asked]
        self._begun = False

    def put(self, tokens: Tensor) -> None:
        if not self._begun:
            self._begun = True
            pad = self.backbone.processor.tokenizer.pad_token_id
            self.read = [sum(token != pad for token in own) for own in tokens.tolist()]
            return
        for ids, settled, token in zip(self._ids, self._settled, tokens.tolist(), strict=True):
            ids.append(token)
            if settled.asked.on_text and hasattr(self.backbone, "prompter"):
                text, _ = self.backbone.prompter.reply(torch.tensor(ids))
                settled.update(text)

    def end(self) -> None:
        """Does nothing: `say` returns the complete reply."""
