"""The model of this process as the engine of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest

from myvlm import Embedding, MyVLM
from myvlm.images import load_images
from myvlm.serving.http.speaking import in_process
from myvlm.serving.http.speaking.asking import EngineRequest
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
            reply = await engine.reply(EngineRequest(photo, prompt, [concept], names, (), on_text))
            await engine.close()
            return reply.text

        return asyncio.run(asking())

    heard: list[str] = []
    assert said(None) == own[number].text
    assert said(heard.append) == behind_rows[number].text
    assert heard


def test_what_goes_by_rows_and_what_by_description_are_batches_of_their_own(
    vlm: MyVLM, taught: Taught, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions with rows and questions by description arrive together; neither kind is run one by one."""
    spoken: list[int] = []
    generate_replies = in_process.generate_replies

    def counted(backbone: Any, photos: Sequence[Any], *rest: Any, **more: Any) -> Any:
        spoken.append(len(photos))
        return generate_replies(backbone, photos, *rest, **more)

    monkeypatch.setattr(in_process, "generate_replies", counted)
    [(name, learned)] = taught.concept.embeddings.items()
    own = {part.name: getattr(learned, part.name) for part in fields(Embedding)}
    own["settings"] = {**learned.settings, "asked_by": "description"}
    concept = replace(taught.concept, embeddings={name: Embedding(**own)}, folder=None)
    names = Names(vlm.backbone, [concept])
    [photo] = load_images(pictures(taught.kit.present)[:1])
    prompts = [vlm.backbone.caption_prompt, f"What colour is {taught.word}?"] * 2

    async def asking() -> list[str]:
        engine = InProcess(around(vlm), at_once=4)
        asked = [engine.reply(EngineRequest(photo, prompt, [concept], names, ())) for prompt in prompts]
        said = await asyncio.gather(*asked)
        await engine.close()
        return [one.text for one in said]

    said = asyncio.run(asking())
    assert spoken == [2, 2]
    user = around(vlm)
    user.concepts.add(concept)
    assert said[:2] == said[2:] == [user.caption(photo.image).text, user.ask(photo.image, prompts[1]).text]
