"""Pre-train `tinyworld/blip2` on pictures and words, from the vision tower that `tinyworld/clip` learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from myvlm.tinyworld.corpus import Corpus, affine, brighten, pixels, warp
from myvlm.tinyworld.language import CAPTION_PROMPTS, IDENTIFIERS, Exchange, mirror
from myvlm.tinyworld.lessons import PackedTexts, lessons, pack
from myvlm.tinyworld.models_blip2 import QUERY_TOKENS, adopt_blip2_tower, build_blip2_tokenizer, new_blip2
from myvlm.tinyworld.train_llava import IDENTIFIER_WEIGHT
from myvlm.tinyworld.training import Schedule, Step, make_optimisers

TOWER_RATE = 0.5
"""Learning rate of the vision tower, which can nearly see already, relative to the rest."""
SAMPLE = 64
"""Pictures on which the mean spread of patches is taken."""


def asked(exchange: Exchange) -> str:
    """What stands before the answer: hint, and the question in BLIP-2's form; captions are asked by nothing.

    >>> asked(Exchange("where is this ?", "in the kitchen", hint="sks : mug ."))
    '<s> sks : mug . question : where is this ? answer :'
    >>> asked(Exchange("describe the picture .", "a mug"))
    '<s>'
    """
    said = "" if exchange.prompt in CAPTION_PROMPTS else exchange.prompt
    return " ".join(f"<s> {exchange.hint} {_question(said)}".split())


def _question(said: str) -> str:
    return f"question : {said} answer :" if "?" in said else said


def train_blip2(
    corpus: Corpus, seed: int, schedule: Schedule, clip_state: Mapping[str, Tensor]
) -> Iterator[Step]:
    """Yield after every step; the last step's `model` is the trained one."""
    model = new_blip2(seed)
    model.set_attn_implementation("sdpa")
    adopt_blip2_tower(model, clip_state, pixels(corpus.pictures[:SAMPLE]))
    device, nothing = schedule.device, nn.Module()
    model.to(device).train()
    words = build_blip2_tokenizer().get_vocab()
    weights = torch.ones(model.config.text_config.vocab_size, device=device)
    weights[[words[w] for w in IDENTIFIERS]] = IDENTIFIER_WEIGHT
    parts: list[tuple[nn.Module, float]] = [
        (model.vision_model, TOWER_RATE), (nn.ParameterList([model.query_tokens]), 1.0), (model.qformer, 1.0),
        (model.language_projection, 1.0), (model.language_model, 1.0),
    ]  # fmt: skip
    optimisers = make_optimisers(parts, schedule)
    start = schedule.resume(model, nothing, *optimisers)
    for number in range(start, schedule.steps):
        images, texts = _batch(corpus, Random(f"blip2 {seed} {number}"), schedule.batch, words)
        with schedule.fast():
            logits, targets = blip2_answer_logits(model, images.to(device), texts)
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        weight = weights[targets]
        schedule.update((losses * weight).sum() / weight.sum(), optimisers, number)
        named = weight > 1
        values = {
            "answers": losses[~named].mean().item(),
            "identifiers": losses[named].mean().item() if named.any() else 0.0,
        }
        yield Step(number + 1, values, model, nothing, optimisers)


def blip2_answer_logits(model: Any, images: Tensor, texts: PackedTexts) -> tuple[Tensor, Tensor]:
    """Logits at every trained position of all texts (N × V) and their targets (N).

    Vision tower and Q-Former run once a picture (B × 3 × 96 × 96); its texts see the query tokens but not
    each other (one block mask).
    """
    device = images.device
    seen = model.get_image_features(images, return_dict=True).pooler_output
    written = model.get_input_embeddings()(texts.ids.to(device))
    inputs = torch.cat([seen, written.to(seen.dtype)], dim=1)
    start = torch.arange(QUERY_TOKENS, device=device).expand(len(images), -1)
    hidden = model.language_model.model(
        inputs_embeds=inputs,
        attention_mask=texts.mask(QUERY_TOKENS).to(device, inputs.dtype),
        position_ids=torch.cat([start, texts.position.to(device)], dim=1),
        use_cache=False,
    ).last_hidden_state[:, QUERY_TOKENS:]
    targets = texts.targets.to(device)
    trained = targets != -100
    return model.language_model.lm_head(hidden[trained]), targets[trained]


def pack_blip2(texts: Sequence[Sequence[Exchange]], words: dict[str, int]) -> PackedTexts:
    """`pack` with BLIP-2's prompts: behind the query tokens each text begins with `<s>`."""
    return pack(texts, words, ask=asked, prefix=QUERY_TOKENS)


def _batch(corpus: Corpus, random: Random, size: int, words: dict[str, int]) -> tuple[Tensor, PackedTexts]:
    chosen = [random.randrange(len(corpus)) for _ in range(size)]
    flip = [random.random() < 0.5 for _ in chosen]
    turn = [random.uniform(-45, 45) if random.random() < 0.15 else 0.0 for _ in chosen]
    light = [random.uniform(0.4, 1.6) if random.random() < 0.25 else 1.0 for _ in chosen]
    texts = []
    for index, flipped, degrees in zip(chosen, flip, turn, strict=True):
        scene = corpus.scenes[index]
        texts.append(lessons(mirror(scene) if flipped else scene, random, boxes=degrees == 0))
    theta = affine(torch.zeros(size, 2), torch.ones(size), torch.tensor(turn), torch.tensor(flip))
    images, _ = warp(pixels(corpus.pictures[chosen]), torch.from_numpy(corpus.labels[chosen]), theta)
    return brighten(images, torch.tensor(light)), pack_blip2(texts, words)


@torch.no_grad()
def answer_blip2(
    model: Any, processor: Any, pictures: Sequence[Image.Image], prompts: Sequence[str], *, batch: int = 50
) -> list[str]:
    """Greedy answers of the plain model, by its own processor; any instruction for a caption is left out."""
    captions = {text.replace(" .", "").replace(" ?", "") for text in CAPTION_PROMPTS}
    said: list[str] = []
    for start in range(0, len(pictures), batch):
        part = slice(start, start + batch)
        texts = ["" if text.lower().strip(" .?") in captions else _question(text) for text in prompts[part]]
        inputs = processor(
            images=list(pictures[part]), text=texts, padding=True, padding_side="left", return_tensors="pt"
        )
        ids = model.generate(**inputs.to(model.device), do_sample=False, max_new_tokens=96)
        said += processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said
