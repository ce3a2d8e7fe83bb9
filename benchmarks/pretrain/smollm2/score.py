"""Score `tinyworld/smollm2` on unseen scenes, with trained and with held-out wordings.

python -m benchmarks.pretrain.smollm2.score --adapter FOLDER/adapter.safetensors --count 500
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from PIL import Image
from safetensors.torch import load_file

from benchmarks.pretrain.score import answer, unseen_scenes
from benchmarks.pretrain.smollm2.texts import FULL_UNSEEN, draw_questions
from myvlm.tinyworld.assets import path
from myvlm.tinyworld.language import Exchange
from myvlm.tinyworld.smollm2.adapter import merge
from myvlm.tinyworld.smollm2.parts import load_processor, load_untrained
from myvlm.tinyworld.truth import names_thing, same_answer, words
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import Scene


def main(
    adapter: Annotated[Path, typer.Option(help="The adapter, as training writes it.")],
    count: Annotated[int, typer.Option(help="Unseen scenes.")] = 500,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 1,
    show: Annotated[int, typer.Option(help="Replies to print.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Measure, and print one JSON object last."""
    torch.set_num_threads(threads)
    model = load_untrained(path("llava"))
    merge(model, load_file(adapter))
    print(json.dumps(score(model, load_processor(path("llava")), count=count, seed=seed, show=show)))


def score(model: Any, processor: Any, *, count: int, seed: int = 1, show: int = 0) -> dict[str, float]:
    """Shares of correct greedy captions, and of one answer per scene in trained and in held-out wordings."""
    scenes, random = unseen_scenes(count, seed), Random(f"smollm2 score {seed}")
    pictures = [draw_scene(scene) for scene in scenes]
    captions = answer(model, processor, pictures, ["Describe the image."] * count, batch=25)
    figures = caption_figures(scenes, captions)
    prompts = [random.choice(FULL_UNSEEN) for _ in scenes]
    untaught = answer(model, processor, pictures, prompts, batch=25)
    own = caption_figures(scenes, untaught)
    figures |= {f"{name}, untaught instruction": own[name] for name in ("place", "category", "colour")}
    for name, unseen in (("answers", False), ("answers, untaught form", True)):
        asked = [random.choice(draw_questions(scene, random, unseen=unseen)) for scene in scenes]
        figures[name] = _answers(model, processor, pictures, asked, show=show)
    for scene, text in list(zip(scenes, captions, strict=True))[:show]:
        print(f"{scene.place} {scene.weather} {[t.look for t in scene.things]}\n    {text}")
    return {name: round(value, 4) for name, value in figures.items()}


def caption_figures(scenes: Sequence[Scene], captions: Sequence[str]) -> dict[str, float]:
    """Shares of correct place and weather, and of correct category, colour and pattern per object.

    >>> from random import Random
    >>> from myvlm.tinyworld.smollm2.english import as_sentence
    >>> from myvlm.tinyworld.language import caption
    >>> scenes = unseen_scenes(5, 0)
    >>> set(caption_figures(scenes, [as_sentence(caption(s, Random(0))) for s in scenes]).values())
    {1.0}
    """
    said = list(zip(scenes, captions, strict=True))
    named = [names_thing(text, thing) for scene, text in said for thing in scene.things]
    return {
        "place": _share([scene.place in words(text) for scene, text in said]),
        "weather": _share([scene.weather in words(text) for scene, text in said]),
        **{what: _share([n[i] for n in named]) for i, what in enumerate(("category", "colour", "pattern"))},
    }


def _answers(
    model: Any, processor: Any, pictures: Sequence[Image.Image], asked: Sequence[Exchange], *, show: int
) -> float:
    said = answer(model, processor, pictures, [e.prompt for e in asked], batch=25)
    for exchange, text in list(zip(asked, said, strict=True))[:show]:
        print(f"{exchange.prompt} {exchange.answer} | {text}")
    return _share([same_answer(text, e.answer) for text, e in zip(said, asked, strict=True)])


def _share(outcomes: Sequence[bool]) -> float:
    return sum(outcomes) / len(outcomes)


if __name__ == "__main__":
    typer.run(main)
