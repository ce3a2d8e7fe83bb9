"""The model of this process as the engine of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from myvlm import MyVLM
from myvlm.images import load_images
from myvlm.serving.http.speaking.asking import Ask
from myvlm.serving.http.speaking.in_process import InProcess
from myvlm.speaking.addressing import Names
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, around, held_to


def test_a_doubtful_reply_gives_way_unless_somebody_hears_it_as_it_grows(vlm: MyVLM, taught: Taught) -> None:
    concept, photos = held_to(taught, -1.0), pictures(taught.kit.present)
    trusting, doubting = around(vlm), around(vlm)
    trusting.concepts.add(taught.concept)
    doubting.concepts.add(concept)
    behind_rows, own = trusting.caption(photos), doubting.caption(photos)
    number = next(n for n, (a, b) in enumerate(zip(behind_rows, own, strict=True)) if a.text != b.text)
    prompt, names = vlm.backbone.caption_prompt, Names(vlm.backbone, [concept])
    [photo] = load_images([photos[number]])

    def said(on_text: Callable[[str], None] | None) -> str:
        async def asking() -> str:
            engine = InProcess(doubting, at_once=4)
            reply = await engine.say(Ask(photo, prompt, [concept], names, (), on_text))
            await engine.close()
            return reply.text

        return asyncio.run(asking())

    heard: list[str] = []
    assert said(None) == own[number].text
    assert said(heard.append) == behind_rows[number].text
    assert heard
