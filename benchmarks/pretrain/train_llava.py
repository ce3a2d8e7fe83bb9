"""Pre-train `tinyworld/llava` on pictures and text, from the vision tower of `tinyworld/clip`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrain.attention_supervision import Looking
from benchmarks.pretrain.corpus import Corpus, affine, brighten, pixels, warp
from benchmarks.pretrain.lessons import PREFIX, Hint, PackedTexts, Tensors, pack, rows_of, teach
from benchmarks.pretrain.models import CLIP_WIDTH, SPECIAL, build_tokenizer, new_llava
from benchmarks.pretrain.train_clip import PatchLabeller, ThingLabeller, patch_attributes, place_and_weather
from benchmarks.pretrain.training import Schedule, Step, make_optimisers
from myvlm.backbones.base import ConceptRows
from myvlm.tinyworld.language import IDENTIFIERS, mirror
from myvlm.tinyworld.world.scenes import Scene

T = TypeVar("T")

TOLD_BESIDE = 0.8
"""Share of pictures with hints as rows after the picture's features, where a concept's rows will be."""
IDENTIFIER_WEIGHT = 4.0
"""Loss weight of identifier tokens, which are few and matter most."""
TOWER_RATE = 0.3
"""Relative learning rate of the vision tower, which is already trained."""
PATCH_WEIGHT = 0.2
"""Loss weight of the renderer's patch labels, which keep the tower attending to small objects."""
THING_WEIGHT = 0.2
"""Loss weight of predicting the object that a caption describes next, so that its name can be looked up."""
THING_LAYER = 3
"""Number of language model layers after which that object should be known; two layers remain."""
LOOK_WEIGHT = 0.3
"""Loss weight of the attention from due and repeated names to their rows."""
NOISE = 5.0
"""NEFTune (arXiv 2310.05914): uniform noise on all text embeddings, of this size / √(length · width)."""


def adopt_vision_tower(llava: Any, clip_state: dict[str, Tensor]) -> None:
    """Copy the vision tower of an open_clip state dict into the CLIP tower of a LLaVA."""
    tower = llava.model.vision_tower
    prefix = "visual."
    state: dict[str, Tensor] = {
        "embeddings.class_embedding": clip_state[prefix + "class_embedding"],
        "embeddings.patch_embedding.weight": clip_state[prefix + "conv1.weight"],
        "embeddings.position_embedding.weight": clip_state[prefix + "positional_embedding"],
    }
    for part in ("weight", "bias"):
        state[f"pre_layrnorm.{part}"] = clip_state[f"{prefix}ln_pre.{part}"]
        state[f"post_layernorm.{part}"] = clip_state[f"{prefix}ln_post.{part}"]
        for layer in range(len(tower.encoder.layers)):
            source, target = f"{prefix}transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            packed = clip_state[f"{source}attn.in_proj_{part}"].chunk(3)
            for name, block in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
                state[f"{target}self_attn.{name}.{part}"] = block
            for theirs, ours in (
                ("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"),
            ):  # fmt: skip
                state[f"{target}{ours}.{part}"] = clip_state[f"{source}{theirs}.{part}"]
    missing, unexpected = tower.load_state_dict(state, strict=False)
    missing = [m for m in missing if "position_ids" not in m]
    if missing or unexpected:
        raise RuntimeError(f"the vision towers differ: missing {missing}, unexpected {unexpected}")


def train_llava(
    corpus: Corpus, seed: int, schedule: Schedule, clip_state: dict[str, Tensor],
    before: Mapping[str, Tensor] | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Yield after every step; the last step's `model` is the trained one.

    Args:
        before: weights to continue from, with their own vision tower instead of CLIP's.
    """
    model = new_llava(seed)
    model.set_attn_implementation("sdpa")
    if before is None:
        adopt_vision_tower(model, clip_state)
    else:
        model.load_state_dict(before)
    of_patches, of_things = PatchLabeller(CLIP_WIDTH), ThingLabeller(CLIP_WIDTH)
    labeller = nn.ModuleDict({"patches": of_patches, "things": of_things})
    device = schedule.device
    model.to(device), labeller.to(device)
    if schedule.compile:
        model.model.language_model.forward = torch.compile(model.model.language_model.forward, dynamic=False)
    words = build_tokenizer().get_vocab()
    weights = torch.ones(model.config.text_config.vocab_size, device=device)
    weights[[words[w] for w in IDENTIFIERS]] = IDENTIFIER_WEIGHT
    core = model.model
    parts = [
        (core.vision_tower, TOWER_RATE), (core.multi_modal_projector, 1.0), (core.language_model, 1.0),
        (labeller, 1.0),
    ]  # fmt: skip
    optimisers = make_optimisers(parts, schedule)
    start = schedule.resume(model, labeller, *optimisers)
    lesson_of = partial(teach, beside=TOLD_BESIDE)

    def draw(number: int) -> _Batch:
        random = Random(f"llava {seed} {number}")
        noise = random.randrange(2**62)
        shown, taught = draw_batch(corpus, random, schedule.batch, lesson_of)
        texts = pack([lesson.texts for lesson in taught], words)
        due = patch_attributes([lesson.scene for lesson in taught], texts.begins)[texts.begins > 0]
        return _Batch(shown, texts, [lesson.hints for lesson in taught], due, noise, random)

    for number, batch in schedule.batches(draw, start):
        shown, texts = batch.shown.to(device), batch.texts
        generator = torch.Generator(device).manual_seed(batch.noise)
        beside = words_as_rows(model, batch.hints, words, batch.random)
        looked = Looking(batch.hints, beside, texts, words, known=THING_LAYER)
        with schedule.fast():
            seen = core.vision_tower(shown.images).last_hidden_state[:, 1:]
            patch_loss = of_patches.loss(seen, shown.labels, shown.whole)
            with looked.at(core.language_model.config):
                logits, targets, states = answer_logits(model, seen, texts, generator, beside)
            states = F.layer_norm(states[texts.begins > 0], states.shape[-1:])
            thing_loss = of_things.loss(states, batch.due.to(device))
            look_loss = looked.loss()
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        weight = weights[targets]
        loss = (losses * weight).sum() / weight.sum()
        aside = PATCH_WEIGHT * patch_loss + THING_WEIGHT * thing_loss + LOOK_WEIGHT * look_loss
        schedule.update(loss + aside, optimisers, number)
        named = weight > 1
        values = {
            "answers": losses[~named].mean().item(),
            "identifiers": losses[named].mean().item() if named.any() else 0.0,
            "patches": patch_loss.item(),
            "things": thing_loss.item(),
            "looks": look_loss.item(),
        }
        yield Step(number + 1, values, model, labeller, optimisers)


@torch.no_grad()
def words_as_rows(
    model: Any, hints: Sequence[Sequence[Hint]], words: Mapping[str, int], random: Random
) -> list[list[ConceptRows]]:
    """Each picture's hints as rows after its features: one to four noisy rows per hint, each near the sum of
    the hint's word embeddings, where learning a concept starts."""
    table = F.normalize(model.get_input_embeddings().weight, dim=-1).cpu()
    bags = [hint.words for own in hints for hint in own]
    sums = [table[[words[word] for word in bag]].sum(0) for bag in bags]
    return rows_of(hints, torch.stack(sums) if sums else table[:0], random, model.device)


def answer_logits(
    model: Any,
    seen: Tensor,
    texts: PackedTexts,
    generator: torch.Generator | None,
    beside: Sequence[Sequence[ConceptRows]] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at every trained position of all texts (N × V), their targets (N), and the hidden states of the
    texts after `THING_LAYER` layers (B × L × D).

    The patches `seen` (B × 64 × D) and the rows `beside` them are encoded once for all texts of their
    picture. A block mask lets each text attend to them but not to the other texts.
    """
    core, device = model.model, seen.device
    texts = texts.to(device)
    seen = core.multi_modal_projector(seen)
    table = core.get_input_embeddings()
    head = torch.tensor(_prefix_ids(), device=device)
    written = table(texts.ids)
    if generator is not None:
        size = NOISE / (texts.ids.shape[1] * written.shape[-1]) ** 0.5 * written.detach().std()
        noise = torch.rand(written.shape, generator=generator, device=device) * 2 - 1
        written = written + size * noise
    front = table(head).expand(len(seen), -1, -1)
    rows, counts = _entering(beside or [[] for _ in seen], seen)
    first, most = len(PREFIX), rows.shape[1]
    inputs = torch.cat([front.to(seen.dtype), seen, rows, written.to(seen.dtype)], dim=1)
    mask = texts.mask(first + most).to(inputs.dtype)
    columns = torch.arange(inputs.shape[1], device=device)
    empty = (columns >= first + counts[:, None]) & (columns < first + most)
    start = torch.arange(first + most, device=device).expand(len(seen), -1)
    states = core.language_model(
        inputs_embeds=inputs,
        attention_mask=mask.masked_fill(empty[:, None, None], -1e4),
        position_ids=torch.cat([start, texts.position + counts[:, None]], dim=1),
        use_cache=False,
        output_hidden_states=True,
    )
    trained = texts.targets != -100
    last, early = (
        hidden[:, first + most :] for hidden in (states.last_hidden_state, states.hidden_states[THING_LAYER])
    )
    return model.lm_head(last[trained]), texts.targets[trained], early


def _entering(beside: Sequence[Sequence[ConceptRows]], seen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows as inserted (B × R × D, zero-padded), and the number of rows of each picture."""
    none = seen.new_zeros(0, seen.shape[-1], dtype=torch.float32)
    own = [torch.cat([none, *(one.directions for one in rows)]) for rows in beside]
    counts = torch.tensor([len(rows) for rows in own], device=seen.device)
    directions = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
    sizes = seen.detach().float().norm(dim=-1).mean(1)  # as `visual_norms`, for all pictures at once
    return (F.normalize(directions, dim=-1) * sizes[:, None, None]).to(seen), counts


def _prefix_ids() -> list[int]:
    words = build_tokenizer().get_vocab()
    return [words[w] for w in PREFIX if w != SPECIAL[4]]


@dataclass(frozen=True)
class Shown(Tensors):
    """A batch of pictures with the renderer's labels.

    Attributes:
        images: B × 3 × 96 × 96.
        things: B × 64, the number in its scene (from 1) of the object in each patch.
        labels: B × 64 × 5, attributes of that object.
        whole: B × 2, place and weather.
    """

    images: Tensor
    things: Tensor
    labels: Tensor
    whole: Tensor


@dataclass(frozen=True)
class _Batch:
    """The inputs of a step; `due` has the object that each text describes next, where it starts to."""

    shown: Shown
    texts: PackedTexts
    hints: list[list[Hint]]
    due: Tensor
    noise: int
    random: Random


def draw_batch(
    corpus: Corpus, random: Random, size: int, teach: Callable[[Scene, Random, bool], T]
) -> tuple[Shown, list[T]]:
    """Draw pictures, and the lesson that `teach` makes of each scene as shown. `teach` is told whether the
    scene's boxes are still valid."""
    chosen = [random.randrange(len(corpus)) for _ in range(size)]
    flip = [random.random() < 0.5 for _ in chosen]
    turn = [random.uniform(-45, 45) if random.random() < 0.15 else 0.0 for _ in chosen]
    light = [random.uniform(0.4, 1.6) if random.random() < 0.25 else 1.0 for _ in chosen]
    texts = []
    for index, flipped, degrees in zip(chosen, flip, turn, strict=True):
        scene = corpus.scenes[index]
        texts.append(teach(mirror(scene) if flipped else scene, random, degrees == 0))
    middle, whole = torch.zeros(size, 2), torch.ones(size)
    theta = affine(middle, whole, torch.tensor(turn), torch.tensor(flip))
    images, patches = warp(pixels(corpus.pictures[chosen]), torch.from_numpy(corpus.labels[chosen]), theta)
    shown = [corpus.scenes[index] for index in chosen]
    labels = patch_attributes(shown, patches)
    bright = brighten(images, torch.tensor(light))
    return Shown(bright, patches, labels, place_and_weather(shown)), texts
