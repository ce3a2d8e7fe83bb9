"""Pre-train `tinyworld/blip2` on pictures and text, from the vision tower and words of `tinyworld/llava`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrain.attention_supervision import astray, not_found, owners
from benchmarks.pretrain.corpus import Corpus, pixels
from benchmarks.pretrain.lessons import Hint, PackedTexts, pack, rows_of, teach
from benchmarks.pretrain.models import CLIP_WIDTH
from benchmarks.pretrain.models_blip2 import (
    QUERY_TOKENS,
    WIDTH,
    adopt_blip2_tower,
    adopt_words,
    build_blip2_tokenizer,
    look_at_places,
    match_words,
    new_blip2,
    token_size,
)
from benchmarks.pretrain.train_clip import PatchLabeller
from benchmarks.pretrain.train_llava import IDENTIFIER_WEIGHT, PATCH_WEIGHT, Shown, draw_batch
from benchmarks.pretrain.training import Schedule, Step, make_optimisers
from myvlm.backbones.base import ConceptRows
from myvlm.backbones.qformer.hooks import QFormerRows, features_of_words, value_path
from myvlm.tinyworld.language import CAPTION_PROMPTS, IDENTIFIERS, Exchange

TOWER_RATE = 0.5
"""Relative learning rate of the vision tower, which is already trained."""
NAME_WEIGHT = 0.3
"""Loss weight of the names of the patches' objects, which make the queries attend to these names."""
SIZE_WEIGHT = 0.3
"""Loss weight of the norm of the query tokens."""
SAMPLE = 64
"""Pictures used to estimate the mean standard deviation of patches."""
TOLD_BESIDE = 0.8
"""Share of pictures with hints as features next to the picture's own."""


def asked(exchange: Exchange) -> str:
    """The text before the answer: the hint and the question in BLIP-2's form; captions have no instruction.

    >>> asked(Exchange("where is this ?", "in the kitchen", hint="sks : mug ."))
    '<s> sks : mug . question : where is this ? answer :'
    >>> asked(Exchange("describe the picture .", "a mug"))
    '<s>'
    """
    said = "" if exchange.prompt in CAPTION_PROMPTS else exchange.prompt
    return " ".join(f"<s> {exchange.hint} {_question(said)}".split())


def _question(said: str) -> str:
    return f"question : {said} answer :" if "?" in said else said


class QueryLabeller(nn.Module):
    """Linear heads that label the patches, from the tower's tokens and from the query of each pair of
    patches.

    A query also predicts which of the names given as features belongs to each of its patches' objects.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        self.of_tower, self.of_queries = PatchLabeller(CLIP_WIDTH), PatchLabeller(WIDTH)
        self.apart = nn.Linear(WIDTH, 2 * WIDTH)
        self.names = nn.Linear(WIDTH, words)

    def loss(
        self, tokens: Tensor, queries: Tensor, labels: Tensor, whole: Tensor, names: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses of the patches' attributes and of their names.

        Args:
            tokens: B × 64 × D, from the tower.
            queries: B × 32 × D.
            labels, whole: as for `PatchLabeller.loss`.
            names: B × 64, the name of each patch's object, or 0 without an object or a name.
        """
        pairs = self.apart(queries).unflatten(2, (2, WIDTH)).flatten(1, 2)
        shown = self.of_tower.loss(tokens, labels, whole) + self.of_queries.loss(pairs, labels, whole)
        losses = F.cross_entropy(self.names(pairs).float().flatten(0, 1), names.flatten(), reduction="none")
        kinds = [losses[kind] for kind in ((names > 0).flatten(), (names == 0).flatten())]
        return shown, torch.stack([kind.mean() for kind in kinds if len(kind)]).mean()


def patch_names(hints: Sequence[Sequence[Hint]], words: Mapping[str, int], shown: Tensor) -> Tensor:
    """B × P: the token of the name that the hints give to each patch's object, or 0. `shown` (B × P) has the
    number of each patch's object."""
    names = torch.zeros_like(shown)
    for own, numbers, row in zip(hints, shown, names, strict=True):
        for hint in own:
            row[(numbers == hint.thing) & (numbers > 0)] = words[hint.name]
    return names


def train_blip2(
    corpus: Corpus, seed: int, schedule: Schedule, llava_state: Mapping[str, Tensor],
    before: Mapping[str, Tensor] | None = None,
) -> Iterator[Step]:  # fmt: skip
    """Yield after every step; the last step's `model` is the trained one.

    Args:
        before: weights to continue from, instead of LLaVA's tower and words.
    """
    model = new_blip2(seed)
    model.set_attn_implementation("sdpa")
    sample = pixels(corpus.pictures[:SAMPLE])
    if before is None:
        adopt_blip2_tower(model, llava_state, sample)
        adopt_words(model, llava_state)
        look_at_places(model, sample)
    else:
        model.load_state_dict(before)
    match_words(model, sample)
    words = build_blip2_tokenizer().get_vocab()
    device, labeller = schedule.device, QueryLabeller(len(words))
    model.to(device).train(), labeller.to(device)
    weights = torch.ones(model.config.text_config.vocab_size, device=device)
    weights[[words[w] for w in IDENTIFIERS]] = IDENTIFIER_WEIGHT
    parts: list[tuple[nn.Module, float]] = [
        (model.vision_model, TOWER_RATE), (nn.ParameterList([model.query_tokens]), 1.0), (model.qformer, 1.0),
        (model.language_projection, 1.0), (model.language_model, 1.0), (labeller, 1.0),
    ]  # fmt: skip
    optimisers = make_optimisers(parts, schedule)
    start = schedule.resume(model, labeller, *optimisers)
    lesson_of = partial(teach, beside=TOLD_BESIDE)

    def draw(number: int) -> tuple[Shown, PackedTexts, list[list[Hint]], Random]:
        random = Random(f"blip2 {seed} {number}")
        shown, taught = draw_batch(corpus, random, schedule.batch, lesson_of)
        texts = pack_blip2([lesson.texts for lesson in taught], words)
        return shown, texts, [lesson.hints for lesson in taught], random

    for number, (drawn, texts, hints, random) in schedule.batches(draw, start):
        beside = words_as_features(model, hints, words, random)
        names, shown = patch_names(hints, words, drawn.things).to(device), drawn.to(device)
        with schedule.fast(), QFormerRows(model.qformer, beside, record=True) as looked:
            seen = model.get_image_features(shown.images, return_dict=True)
            queries = seen.qformer_outputs.last_hidden_state
            tokens = seen.vision_outputs.last_hidden_state[:, 1:]
            patch_loss, name_loss = labeller.loss(tokens, queries, shown.labels, shown.whole, names)
            logits, targets = blip2_answer_logits(model, seen.pooler_output, texts)
            look_loss = names_not_found(looked, hints, beside, drawn.things)
        losses = F.cross_entropy(logits.float(), targets, reduction="none")
        weight = weights[targets]
        loss = (losses * weight).sum() / weight.sum()
        size = token_size(model, seen.pooler_output.float())
        aside = (
            PATCH_WEIGHT * patch_loss
            + NAME_WEIGHT * (name_loss + look_loss)
            + SIZE_WEIGHT * size.log().square()
        )
        schedule.update(loss + aside, optimisers, number)
        named = weight > 1
        values = {
            "answers": losses[~named].mean().item(),
            "identifiers": losses[named].mean().item() if named.any() else 0.0,
            "patches": patch_loss.item(),
            "names": name_loss.item(),
            "looks": look_loss.item(),
            "size": size.item(),
        }
        yield Step(number + 1, values, model, labeller, optimisers)


def names_not_found(
    looked: QFormerRows,
    hints: Sequence[Sequence[Hint]],
    beside: Sequence[Sequence[ConceptRows]],
    shown: Tensor,
) -> Tensor:
    """Attention loss of the Q-Former's queries, in all layers but the first, which only finds the objects.

    Queries whose patches show a named object should attend to its rows, all others to no row. `shown` (B × P)
    has the number of each patch's object.
    """
    things = owners(hints, beside, lambda hint: hint.thing)
    pairs = shown.reshape(len(shown), QUERY_TOKENS, -1)
    wanted = (pairs[:, :, :, None] == things[:, None, None]).any(2)
    rows = [layer[..., layer.shape[-1] - things.shape[1] :] for layer in looked.probabilities[1:]]
    wanted = wanted.to(rows[0].device)
    told = torch.tensor([bool(own) for own in hints], device=wanted.device)
    return not_found(rows, wanted) + astray(rows, told[:, None] & ~wanted.any(-1))


def blip2_answer_logits(model: Any, seen: Tensor, texts: PackedTexts) -> tuple[Tensor, Tensor]:
    """Logits at every trained position of all texts (N × V) and their targets (N).

    The query tokens `seen` (B × 32 × D, projected) are computed once for all texts of their picture. A block
    mask lets each text attend to them but not to the other texts.
    """
    device = seen.device
    texts = texts.to(device)
    written = model.get_input_embeddings()(texts.ids)
    inputs = torch.cat([seen, written.to(seen.dtype)], dim=1)
    start = torch.arange(QUERY_TOKENS, device=device).expand(len(seen), -1)
    hidden = model.language_model.model(
        inputs_embeds=inputs,
        attention_mask=texts.mask(QUERY_TOKENS).to(inputs.dtype),
        position_ids=torch.cat([start, texts.position], dim=1),
        use_cache=False,
    ).last_hidden_state[:, QUERY_TOKENS:]
    trained = texts.targets != -100
    return model.language_model.lm_head(hidden[trained]), texts.targets[trained]


def pack_blip2(texts: Sequence[Sequence[Exchange]], words: dict[str, int]) -> PackedTexts:
    """`pack` with BLIP-2's prompts: each text starts with `<s>` after the query tokens."""
    return pack(texts, words, ask=asked, prefix=QUERY_TOKENS)


@torch.no_grad()
def words_as_features(
    model: Any, hints: Sequence[Sequence[Hint]], words: Mapping[str, int], random: Random
) -> list[list[ConceptRows]]:
    """Each picture's hints as features next to its own: one to four noisy rows per hint along one direction.

    BLIP-2's learning starts from the same direction: the feature that a linear approximation of the value
    path maps to the sum of the hint's word embeddings.
    """
    table = model.get_input_embeddings().weight
    bags = [hint.words for own in hints for hint in own]
    if not bags:
        return [[] for _ in hints]
    wanted = torch.stack([table[[words[word] for word in bag]].sum(0) for bag in bags])
    path = value_path(model.qformer, model.language_projection)
    return rows_of(hints, features_of_words(path, wanted), random, model.device)


@torch.no_grad()
def answer_blip2(
    model: Any, processor: Any, pictures: Sequence[Image.Image], prompts: Sequence[str], *, batch: int = 50
) -> list[str]:
    """Greedy answers of the plain model with its own processor; caption instructions are dropped."""
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
