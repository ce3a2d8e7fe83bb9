"""Pre-train `tinyworld/clip`: contrastive loss between windows of scenes and text, and labels of every patch.

The patch labels come from the renderer; with them a small vision transformer learns to see in minutes. Its
tower then initializes that of `tinyworld/llava`, as CLIP's does for LLaVA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrain.corpus import Corpus, affine, brighten, pixels, warp
from benchmarks.pretrain.models import CLIP_CONFIG, CLIP_DIM, CLIP_WIDTH
from benchmarks.pretrain.training import Schedule, Step, make_optimisers
from myvlm.tinyworld.language import noun_phrase
from myvlm.tinyworld.world import scenes as world
from myvlm.tinyworld.world.scenes import SIZE, Accent, Appearance, Scene, Thing

ATTRIBUTES = {
    "category": world.CATEGORIES,
    "colour": world.COLOURS,
    "pattern": world.PATTERNS,
    "accent colour": (None, *world.ACCENT_COLOURS),
    "accent shape": (None, *world.ACCENT_SHAPES),
}


class ThingLabeller(nn.Module):
    """One linear head per attribute of an object; discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, 1 + len(v)) for v in ATTRIBUTES.values())

    def loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        """`rows` N × D, `labels` N × 5; rows with label 0 show no single object and train only the
        category."""
        total = rows.new_zeros((), dtype=torch.float32)
        for i, head in enumerate(self.heads):
            # "No object" is learned once, by the category.
            losses = F.cross_entropy(head(rows).float(), labels[:, i], reduction="none")
            weight = torch.ones_like(losses) if i == 0 else (labels[:, i] > 0).float()
            total = total + (losses * weight).sum() / weight.sum().clamp(min=1)
        return total


class PatchLabeller(nn.Module):
    """Linear heads for the object in every patch, and for the place and weather of the picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = ThingLabeller(width)
        self.place = nn.Linear(width, len(world.PLACES))
        self.weather = nn.Linear(width, len(world.WEATHERS))

    def loss(self, tokens: Tensor, labels: Tensor, whole: Tensor) -> Tensor:
        """`tokens` B × P × D, `labels` B × P × 5 (0 = nothing), `whole` B × 2 (place, weather)."""
        mean, total = tokens.mean(1), self.thing.loss(tokens.flatten(0, 1), labels.flatten(0, 1))
        total = total + F.cross_entropy(self.place(mean).float(), whole[:, 0])
        return total + F.cross_entropy(self.weather(mean).float(), whole[:, 1])


def new_clip(seed: int) -> Any:
    """The open_clip model of `CLIP_CONFIG` with random weights and 2-D sine-cosine position embeddings."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**CLIP_CONFIG)
    with torch.no_grad():
        model.visual.positional_embedding[1:] = sine_cosine_positions(8, CLIP_WIDTH) * 0.5
    return model


def sine_cosine_positions(side: int, width: int) -> Tensor:
    """side² × width: sines and cosines of the row in the first half, of the column in the second."""
    frequency = 1.0 / 100 ** (torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * frequency
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


def train_clip(
    corpus: Corpus, seed: int, schedule: Schedule, before: Mapping[str, Tensor] | None = None
) -> Iterator[Step]:
    """Yield after every step; the last step's `model` is the trained one. `before`: weights to continue
    from."""
    model = new_clip(seed)
    if before is not None:
        model.load_state_dict(before)
    of_patches, of_window = PatchLabeller(CLIP_WIDTH), ThingLabeller(CLIP_DIM)
    labeller = nn.ModuleDict({"patches": of_patches, "window": of_window})
    model.visual.output_tokens = True
    device = schedule.device
    model.to(device), labeller.to(device)
    tokenizer = _Tokens()
    optimisers = make_optimisers([(model, 1.0), (labeller, 1.0)], schedule)
    start = schedule.resume(model, labeller, *optimisers)

    def draw(number: int) -> Any:
        *shown, texts = _batch(corpus, Random(f"clip {seed} {number}"), schedule.batch)
        return *shown, tokenizer(texts)

    for number, drawn in schedule.batches(draw, start):
        images, labels, whole, single, texts = (one.to(device) for one in drawn)
        with schedule.fast():
            pooled, tokens = model.visual(images)
            written = model.encode_text(texts, normalize=True)
            patch_loss = of_patches.loss(tokens, labels, whole)
            window_loss = of_window.loss(pooled, single)
        pooled, written = F.normalize(pooled.float(), dim=-1), written.float()
        scale = model.logit_scale.exp().clamp(max=100)
        right = torch.arange(len(images), device=device)
        logits = scale * pooled @ written.T  # B × 2B: the second half are hard negatives
        contrast = (F.cross_entropy(logits, right) + F.cross_entropy(logits[:, : len(images)].T, right)) / 2
        schedule.update(contrast + patch_loss + window_loss, optimisers, number)
        losses = {
            "contrast": contrast.item(), "patches": patch_loss.item(), "window": window_loss.item(),
        }  # fmt: skip
        yield Step(number + 1, losses, model, labeller, optimisers)


class _Tokens:
    """Tokenizer with the same words as open_clip's, which would have to be read from a folder."""

    def __init__(self) -> None:
        from benchmarks.pretrain.models import CLIP_CONTEXT, build_tokenizer

        self.core, self.length = build_tokenizer(), CLIP_CONTEXT

    def __call__(self, texts: Sequence[str]) -> Tensor:
        ids = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, encoded in zip(ids, self.core(list(texts))["input_ids"], strict=True):
            encoded = [1, *encoded, 2][: self.length]
            row[: len(encoded)] = torch.tensor(encoded)
        return ids


def _batch(corpus: Corpus, random: Random, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """Windows, attributes of their patches, place and weather, the single object (if one), and texts."""
    chosen = [random.randrange(len(corpus)) for _ in range(size)]
    windows, texts, misses = [], [], []
    single = torch.zeros(size, 5, dtype=torch.long)
    for row, index in enumerate(chosen):
        scene = corpus.scenes[index]
        centre, side = _window(scene, random)
        seen = [t for t in scene.things if _visible(t, centre, side) > 0.6]
        right, wrong = _describe(scene, seen, side, random)
        windows.append((*centre, side))
        texts.append(right)
        misses.append(wrong)
        if len(seen) == 1:
            single[row] = torch.tensor(attribute_numbers(seen[0]))
    window = torch.tensor(windows)
    flip = torch.tensor([random.random() < 0.5 for _ in chosen])
    turn = torch.tensor([random.uniform(-45, 45) if random.random() < 0.2 else 0.0 for _ in chosen])
    light = torch.tensor([random.uniform(0.5, 1.5) if random.random() < 0.3 else 1.0 for _ in chosen])
    theta = affine(window[:, :2] * 2 / SIZE - 1, window[:, 2] / SIZE, turn, flip)
    images, patches = warp(pixels(corpus.pictures[chosen]), torch.from_numpy(corpus.labels[chosen]), theta)
    shown = [corpus.scenes[index] for index in chosen]
    labels, whole = patch_attributes(shown, patches), place_and_weather(shown)
    return brighten(images, light), labels, whole, single, texts + misses


def patch_attributes(shown: Sequence[Scene], patches: Tensor) -> Tensor:
    """B × P × 5: the attribute numbers of the object in each patch; `patches` has its number in the scene."""
    attributes = torch.zeros(len(shown), 5, 5, dtype=torch.long)
    for row, scene in enumerate(shown):
        for number, thing in enumerate(scene.things):
            attributes[row, number + 1] = torch.tensor(attribute_numbers(thing))
    return attributes[torch.arange(len(shown))[:, None], patches]


def place_and_weather(shown: Sequence[Scene]) -> Tensor:
    """B × 2: the numbers of each scene's place and weather."""
    return torch.tensor([(world.PLACES.index(s.place), world.WEATHERS.index(s.weather)) for s in shown])


def attribute_numbers(thing: Thing) -> list[int]:
    """The five attribute numbers of an object, from 1 (0 means no object)."""
    look, accent = thing.look, thing.look.accent
    values = (look.category, look.colour, look.pattern, accent and accent.colour, accent and accent.shape)
    return [1 + options.index(v) for v, options in zip(values, ATTRIBUTES.values(), strict=True)]


def _window(scene: Scene, random: Random) -> tuple[tuple[float, float], float]:
    """Centre and side, in pixels, of a window: mostly around one object, else the whole or a random
    window."""
    draw = random.random()
    if draw < 0.2:
        return (SIZE / 2, SIZE / 2), SIZE
    if draw < 0.3:
        side = random.uniform(0.33, 0.9) * SIZE
        x, y = (random.uniform(side / 2, SIZE - side / 2) for _ in range(2))
        return (x, y), side
    left, top, right, bottom = random.choice(scene.things).box
    side = min(SIZE, (right - left) * random.uniform(0.95, 2.0))
    slack = side * 0.18
    x = (left + right) / 2 + random.uniform(-slack, slack)
    y = (top + bottom) / 2 + random.uniform(-slack, slack)
    return (min(max(x, side / 2), SIZE - side / 2), min(max(y, side / 2), SIZE - side / 2)), side


def _visible(thing: Thing, centre: tuple[float, float], side: float) -> float:
    """The share of an object's box inside a window."""
    left, top, right, bottom = thing.box
    wide = min(right, centre[0] + side / 2) - max(left, centre[0] - side / 2)
    high = min(bottom, centre[1] + side / 2) - max(top, centre[1] - side / 2)
    return max(wide, 0) * max(high, 0) / ((right - left) * (bottom - top))


def _describe(scene: Scene, seen: list[Thing], side: float, random: Random) -> tuple[str, str]:
    """A text that fits the window, and one that is wrong in one attribute of one object."""
    tail = f" {scene.place} {scene.weather}" if random.random() < (0.5 if side > 0.6 * SIZE else 0.1) else ""
    head = random.choice(("", "", "a photo of ", "a picture of "))
    if not seen:
        other = random.choice([p for p in world.PLACES if p != scene.place])
        return f"{head}{scene.place} {scene.weather}", f"{head}{other} {scene.weather}"
    seen = sorted(seen, key=lambda _: random.random())[:3]
    short = random.choice((0, 1)) if len(seen) == 1 and random.random() < 0.2 else None
    if short is None:
        told = [noun_phrase(t.look, random, accent=random.random() < 0.95) for t in seen]
    else:
        told = [_short(t, short) for t in seen]
    changed = random.randrange(len(seen))
    near = _near_miss(seen[changed].look, random)
    if short is not None:
        category = random.choice([c for c in world.CATEGORIES if c != near.category])
        miss = [told[0].replace(seen[0].category, category)]
    else:
        miss = [*told[:changed], noun_phrase(near, random, accent=True), *told[changed + 1 :]]
    return head + " and ".join(told) + tail, head + " and ".join(miss) + tail


def _near_miss(look: Appearance, random: Random) -> Appearance:
    """A look-alike. Often only the badge's shape or the pattern differs: these are the hardest."""
    if random.random() < 0.2:
        return replace(look, pattern=random.choice([p for p in world.PATTERNS if p != look.pattern]))
    if look.accent and random.random() < 0.45:
        shape = random.choice([s for s in world.ACCENT_SHAPES if s != look.accent.shape])
        return replace(look, accent=Accent(look.accent.colour, shape))
    return world.look_alike(look, random)


def _short(thing: Thing, level: int) -> str:
    return f"a {thing.look.colour} {thing.category}" if level else f"a {thing.category}"
