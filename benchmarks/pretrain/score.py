"""Scores of an embedded model on unseen scenes; `pretrain` writes them into the model's card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from PIL import Image

from myvlm.boxes import iou
from myvlm.tinyworld.language import questions
from myvlm.tinyworld.truth import names_thing, read_box, same_answer, words
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import SIZE, Appearance, Scene, random_appearance, random_scene

Say = Callable[[Any, Any, Sequence[Image.Image], Sequence[str]], list[str]]


def unseen_scenes(count: int, seed: int) -> list[Scene]:
    random = Random(f"unseen {seed}")
    return [random_scene(random) for _ in range(count)]


def views_of_things(count: int, views: int, seed: int) -> list[list[Image.Image]]:
    """`count` random objects, each cropped roughly from `views` pictures in different surroundings."""
    random = Random(f"things {seed}")
    looks = [random_appearance(random, accent_share=0.7) for _ in range(count)]
    return [[_cut_roughly(look, random) for _ in range(views)] for look in looks]


def _cut_roughly(look: Appearance, random: Random) -> Image.Image:
    scene = random_scene(random, looks=(look,))
    left, top, right, bottom = scene.things[0].box
    side = (right - left) * random.uniform(0.9, 1.5)
    x = (left + right) / 2 + random.uniform(-0.15, 0.15) * side
    y = (top + bottom) / 2 + random.uniform(-0.15, 0.15) * side
    edges = [min(max(v, 0), SIZE) for v in (x - side / 2, y - side / 2, x + side / 2, y + side / 2)]
    return draw_scene(scene).crop((int(edges[0]), int(edges[1]), int(edges[2]), int(edges[3])))


def score_llava(
    model: Any, processor: Any, *, count: int = 500, seed: int = 1, say: Say | None = None
) -> dict[str, float]:
    """Share of correct greedy captions, answers and boxes on `count` unseen scenes.

    `say` answers prompts about pictures; by default through the processor's chat template.
    """
    say = say or answer
    scenes = unseen_scenes(count, seed)
    pictures = [draw_scene(scene) for scene in scenes]
    captions = say(model, processor, pictures, ["Describe the image."] * count)
    things = [(text, thing) for text, scene in zip(captions, scenes, strict=True) for thing in scene.things]
    named = [names_thing(text, thing) for text, thing in things]
    random = Random(f"questions {seed}")
    asked = [(i, e) for i, s in enumerate(scenes) for e in questions(s, random) if "[refer]" not in e.prompt]
    asked = random.sample(asked, 2 * count)
    boxes = [(i, e) for i, s in enumerate(scenes) for e in questions(s, random) if "[refer]" in e.prompt]
    boxes = random.sample(boxes, count)
    said = say(model, processor, [pictures[i] for i, _ in asked], [e.prompt for _, e in asked])
    drawn = say(model, processor, [pictures[i] for i, _ in boxes], [e.prompt for _, e in boxes])
    overlaps = [
        iou(given, truth)
        for text, (_, e) in zip(drawn, boxes, strict=True)
        if (truth := read_box(e.answer)) and (given := read_box(text) or (0.0, 0.0, 0.0, 0.0))
    ]
    return {
        "place": _share(s.place in words(t) for s, t in zip(scenes, captions, strict=True)),
        "weather": _share(s.weather in words(t) for s, t in zip(scenes, captions, strict=True)),
        "category": _share(n[0] for n in named),
        "colour": _share(n[1] for n in named),
        "pattern": _share(n[2] for n in named),
        "answers": _share(same_answer(t, e.answer) for t, (_, e) in zip(said, asked, strict=True)),
        "boxes at IoU 0.5": _share(o >= 0.5 for o in overlaps),
    }


def score_clip(
    model: Any, preprocess: Any, tokenizer: Any, *, count: int = 500, seed: int = 1
) -> dict[str, float]:
    """How often the crop of an object is nearest to its own description among 64."""
    from myvlm.tinyworld.language import noun_phrase

    crops, texts = [], []
    for scene in unseen_scenes(count, seed):
        thing = scene.things[0]
        left, top, right, bottom = thing.box
        crops.append(draw_scene(scene).crop((int(left), int(top), int(right), int(bottom))))
        texts.append(noun_phrase(thing.look, accent=True))
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(c) for c in crops]), normalize=True)
        written = model.encode_text(tokenizer(texts), normalize=True)
    hits = []
    for start in range(0, count - 63, 64):
        part = slice(start, start + 64)
        nearest = (images[part] @ written[part].T).argmax(1).tolist()
        hits += [texts[start + n] == texts[start + i] for i, n in enumerate(nearest)]
    return {"right description of 64": _share(hits)}


@torch.no_grad()
def answer(
    model: Any, processor: Any, pictures: Sequence[Image.Image], prompts: Sequence[str], *, batch: int = 50
) -> list[str]:
    """Greedy answers of a plain transformers model with its own processor and template."""
    said: list[str] = []
    for start in range(0, len(pictures), batch):
        part = slice(start, start + batch)
        inputs = processor(
            text=[
                processor.apply_chat_template(
                    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": p}]}],
                    add_generation_prompt=True,
                )
                for p in prompts[part]
            ],
            images=list(pictures[part]), padding=True, padding_side="left", return_tensors="pt",
        )  # fmt: skip
        ids = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=96)
        said += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def _share(outcomes: Any) -> float:
    listed = [bool(o) for o in outcomes]
    return sum(listed) / len(listed)
