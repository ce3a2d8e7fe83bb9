"""Recall, false alarms, and correctness of the other words in captions of concepts learned from a few photos.

    python benchmarks/recall.py --backbone tinyworld/llava

Learns concepts that no training scene of tinyworld contains, from 4, 2 and 1 photos. Captions unseen pictures
with the concept, with a look-alike, with neither, and with both, where the name must be used for the right
one, and compares them with the plain model's. Prints a table of ablations first. The last line is one JSON
object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import torch
import typer
from language.wordings import measure_wordings, wordings_summary
from language.written import written
from rich.console import Console
from rich.table import Table
from tally import LOADED, Tally, in_processes

from myvlm import MyVLM, Reply
from myvlm.backbones import Backbone, ConceptRows
from myvlm.evaluation.methods.untrained import select_visual_tokens
from myvlm.images import load_images
from myvlm.learning import concept_optimizer, gather_examples, learn_embedding
from myvlm.learning.captions import described
from myvlm.learning.dataset import CAPTION_PROMPTS
from myvlm.learning.settings import default_settings
from myvlm.text import contains_word
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.said import told_apart
from myvlm.tinyworld.smollm2.english import SPOKEN_BY
from myvlm.tinyworld.truth import context_right, leaks

Run = tuple[int, int, int, tuple[str, ...]]
"""Number of the concept, seed, unseen pictures of each kind, and the concept's variants in the ablation."""
Outcome = tuple[Tally, dict[str, Tally]]

VARIANTS: dict[str, dict[str, dict[str, object]]] = {
    "tinyworld/llava": {
        "full": {},
        "no regularizer": {"regularizer": 0.0},
        "no norm rescaling": {"norm": "none"},
        "augmentation": {"augment": True},
        "augmentation, no regularizer": {"augment": True, "regularizer": 0.0},
        "random start": {"start": "random"},
        "1 row": {"rows": 1},
    },
    "tinyworld/blip2": {
        "full": {},
        "no regularizer": {"regularizer": 0.0},
        "no key/value rescaling": {"norm": "none"},
        "augmentation": {"augment": True},
        "2 photos": {"photos": 2},
        "1 photo": {"photos": 1},
        "1 row": {"rows": 1},
        "random start": {"start": "random"},
    },
    "tinyworld/smollm2": {
        "full": {},
        "rate 0.03": {"learning_rate": 0.03},
        "rate 0.3": {"learning_rate": 0.3},
        "visual norm": {"norm": "visual_mean"},
        "1 row among words": {"start": "words", "norm": "visual_mean", "learning_rate": 0.3},
        "4 rows among words": {"start": "words", "norm": "visual_mean", "learning_rate": 0.3, "rows": 4},
        "no regularizer": {"regularizer": 0.0},
        "augmentation": {"augment": True},
        "100 steps": {"steps": 100},
        "random start": {"start": "random"},
        "at 16 visual tokens": {"at": "tokens", "norm": "visual_mean", "learning_rate": 0.3},
        "at 16 visual tokens, their norms": {"at": "tokens"},
        "at the mean of these": {"at": "mean", "norm": "visual_mean", "learning_rate": 0.3},
        "1 instruction": {"instructions": 1},
        "3 instructions": {"instructions": 3},
    },
}
"""Ablations by backbone: learning settings that differ from its defaults; number of `photos` out of four;
`at`: learning starts from the concept's own visual `tokens` or their `mean`; number of caption
`instructions`."""


def main(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")] = "tinyworld/llava",
    concepts: Annotated[int, typer.Option(help="Concepts a seed.")] = 12,
    seeds: Annotated[int, typer.Option(help="Seeds: 0, 1, …")] = 3,
    first: Annotated[int, typer.Option(help="The first seed; those from 6 on are for tuning.")] = 0,
    tests: Annotated[int, typer.Option(help="Unseen pictures of each kind a concept.")] = 20,
    ablated: Annotated[int, typer.Option(help="Concepts a seed in the table of ablations; 0: no table.")] = 4,
    variant: Annotated[
        list[str] | None, typer.Option(help="Variant to measure; repeat the option for more.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    dtype: Annotated[
        str, typer.Option(help="The model's; bfloat16 is faster where the CPU has it.")
    ] = "float32",
    keep: Annotated[Path | None, typer.Option(help="File of finished runs: a broken run goes on.")] = None,
) -> None:
    """Measure, print the tables and, as the last line, one JSON object."""
    drawn = range(first, first + seeds)
    wanted = tuple(variant or VARIANTS[backbone])
    runs = [
        (number, seed, tests, wanted if number < ablated else ())
        for number in range(concepts)
        for seed in drawn
    ]
    whole, by_variant = Tally(), {name: Tally() for name in wanted}
    kept = read_kept(keep)
    todo = [run for run in runs if run not in kept]
    begun = in_processes(one_run, todo, "concepts", backbone=backbone, dtype=dtype, workers=workers)
    for run, outcome in begun:
        kept[run] = outcome
        append_kept(keep, run, outcome)
    for run in runs:
        own, variants = kept[run]
        whole.join(own)
        for name, tally in variants.items():
            by_variant[name].join(tally)
    if ablated:
        print_ablations(by_variant)
    figures = summarise(whole)
    print_figures(whole, figures)
    print(json.dumps(figures))


def read_kept(file: Path | None) -> dict[Run, Outcome]:
    """Read the runs that an earlier, interrupted call finished."""
    kept = {}
    for line in file.read_text().splitlines() if file and file.exists() else ():
        entry = json.loads(line)
        variants = {name: Tally.read(one) for name, one in entry["variants"].items()}
        number, seed, tests, names = entry["run"]
        kept[number, seed, tests, tuple(names)] = Tally.read(entry["own"]), variants
    return kept


def append_kept(file: Path | None, run: Run, outcome: Outcome) -> None:
    own, variants = outcome
    entry = {"run": run, "own": own.outcomes, "variants": {n: t.outcomes for n, t in variants.items()}}
    if file:
        with file.open("a") as lines:
            lines.write(json.dumps(entry) + "\n")


def one_run(run: Run) -> Outcome:
    """Measure one concept: the whole method, and the ablations."""
    number, seed, tests, wanted = run
    kit, tally = few_shot(number, seed=seed, tests=tests), Tally()
    if LOADED["vlm"].backbone.name in SPOKEN_BY:
        kit = written(kit)
    measure(LOADED["vlm"], kit, seed, tally)
    vlm = LOADED["vlm"]
    changes = VARIANTS[vlm.backbone.name]
    return tally, {name: measure_open(vlm, kit, seed, changes[name]) for name in wanted}


# ---------------------------------------------------------------- one concept, as a user has it


def measure(vlm: MyVLM, kit: FewShot, seed: int, tally: Tally) -> None:
    """Learn from 4, 2 and 1 photos with `MyVLM`, and caption with the real gate."""
    model, processor = vlm.backbone.model, vlm.backbone.processor
    groups = {
        "present": pictures(kit.present),
        "look_alike": pictures(kit.look_alike),
        "other": pictures(kit.other),
    }
    crowd = pictures(kit.crowd)
    with vlm.generic():
        plain = {name: vlm.caption(group) for name, group in groups.items()}
    settings = default_settings(vlm.backbone.name).model_copy(update={"seed": seed})
    for count, figure in ((4, "recall"), (2, "recall_2"), (1, "recall_1")):
        user = MyVLM(model, processor, name=vlm.backbone.name)
        started = time.perf_counter()
        user.learn(
            kit.identifier, kit.photos(count), category=kit.category, captions=kit.captions(count),
            questions=kit.questions(count), settings=settings, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        replies = user.caption(groups["present"])
        tally.add(figure, seed, names(kit, replies))
        if count < 4:
            continue
        tally.add("learn_seconds", seed, [seconds])
        tally.add("gate_recall", seed, [bool(r.seen) for r in replies])
        looks = {kit.identifier: kit.look}
        said = zip(user.caption(crowd), kit.crowd, strict=True)
        right = [told_apart(reply.text, kit.identifier, scene, looks) for reply, scene in said]
        tally.add("right_in_crowd", seed, right)
        if vlm.backbone.name in SPOKEN_BY:
            measure_wordings(user, kit, replies, plain["present"], seed, tally)
        context(kit, kit.present, [r.text for r in replies], plain["present"], seed, tally)
        open_texts = speak_open(user, kit, groups["present"])
        tally.add("recall_gated_open", seed, [contains_word(t, kit.identifier) for t in open_texts])
        identical = []
        for name in ("look_alike", "other"):
            answers = user.caption(groups[name])
            tally.add(f"false_{name}", seed, names(kit, answers))
            tally.add(f"gate_false_{name}", seed, [bool(r.seen) for r in answers])
            identical += same(answers, plain[name])
        tally.add("plain_identical", seed, identical + same(replies, plain["present"]))


def names(kit: FewShot, replies: Sequence[Reply]) -> list[bool]:
    return [contains_word(reply.text, kit.identifier) for reply in replies]


def same(replies: Sequence[Reply], plain: Sequence[Reply]) -> list[bool]:
    """Whether replies have the plain model's tokens, for pictures in which nothing was detected."""
    pairs = zip(replies, plain, strict=True)
    return [torch.equal(torch.tensor(r.token_ids), torch.tensor(p.token_ids)) for r, p in pairs if not r.seen]


def context(
    kit: FewShot, scenes: Sequence, said: list[str], plain: Sequence[Reply], seed: int, tally: Tally
) -> None:
    """Count correct context words, and leaked ones of the training photos, in our and the plain captions."""
    for text, other, scene in zip(said, plain, scenes, strict=True):
        right, total = context_right(text, scene, kit.look)
        before, _ = context_right(other.text, scene, kit.look)
        tally.add("context", seed, [1.0] * right + [0.0] * (total - right))
        tally.add("context_plain", seed, [1.0] * before + [0.0] * (total - before))
        tally.add("leakage", seed, [leaks(text, scene, kit.context)])
        tally.add("leakage_plain", seed, [leaks(other.text, scene, kit.context)])


def speak_open(vlm: MyVLM, kit: FewShot, images: list) -> list[str]:
    """Captions with the ground truth as the gate: the concept is in every picture."""
    embedding = vlm.concepts[kit.identifier].embeddings[vlm.backbone.name]
    rows = ConceptRows(torch.from_numpy(embedding.directions), embedding.norm)
    prompts = [vlm.backbone.caption_prompt] * len(images)
    return [g.text for g in vlm.backbone.generate(images, prompts, [[rows]] * len(images))]


# ---------------------------------------------------------------- the embedding alone, for ablations


def measure_open(vlm: MyVLM, kit: FewShot, seed: int, change: Mapping[str, object]) -> Tally:
    """Learn only the embedding, and caption pictures with the concept without a gate."""
    change, tally, backbone = dict(change), Tally(), vlm.backbone
    photos, at, count = change.pop("photos", 4), change.pop("at", None), change.pop("instructions", None)
    settings = default_settings(backbone.name).model_copy(update={"seed": seed, **change})
    examples = gather_examples(
        kit.identifier, load_images(kit.photos(photos)), kit.captions(photos), kit.questions(photos)
    )
    words = (kit.identifier, *described(backbone, load_images(kit.photos(photos)), kit.category))
    start = own_tokens(vlm, kit, photos, at) if at else None
    if start is not None and settings.norm != "none":  # every other start has unit mean square too
        start *= backbone.dim**0.5 / start.norm(dim=-1, keepdim=True)
    with instructions(backbone, count), started_at(start):
        learned = learn_embedding(backbone, examples, settings, words=words)
    rows = ConceptRows(learned.directions, settings.norm)
    images = pictures(kit.present)
    prompts = [backbone.caption_prompt] * len(images)
    said = [g.text for g in backbone.generate(images, prompts, [[rows]] * len(images))]
    tally.add("recall", seed, [contains_word(text, kit.identifier) for text in said])
    with vlm.generic():
        plain = vlm.caption(images)
    context(kit, kit.present, said, plain, seed, tally)
    return tally


def instructions(backbone: Backbone, count: int | None) -> AbstractContextManager[object]:
    """Context manager: captions are learned with the first `count` instructions; all if None."""
    if count is None:
        return nullcontext()
    return patch.object(backbone, "caption_prompts", (backbone.caption_prompts or CAPTION_PROMPTS)[:count])


def own_tokens(vlm: MyVLM, kit: FewShot, photos: int, at: str) -> torch.Tensor:
    """The concept's visual tokens as method `visual_memory` selects them, or their mean."""
    told = MyVLM(vlm.backbone.model, vlm.backbone.processor, name=vlm.backbone.name)
    loaded = load_images(kit.photos(photos))
    told.introduce(kit.identifier, loaded, category=kit.category)
    boxes = [found[0].box for found in told.concepts.recognise(loaded)]
    tokens = select_visual_tokens(vlm.backbone, loaded, boxes, kit.category)
    return tokens.mean(0, keepdim=True) if at == "mean" else tokens


def started_at(start: torch.Tensor | None) -> AbstractContextManager[object]:
    """Context manager: learning starts from these rows, which no setting can do."""
    if start is None:
        return nullcontext()
    return patch.object(concept_optimizer, "_initial_direction", lambda *settings: start.clone())


# ---------------------------------------------------------------- tables


def summarise(tally: Tally) -> dict[str, float]:
    rates = {name: tally.rate(name) for name in tally.outcomes}
    kept = rates.pop("context") / rates.pop("context_plain")
    order = (
        "recall", "recall_2", "recall_1", "recall_gated_open", "right_in_crowd", "false_look_alike",
        "false_other", "leakage", "plain_identical", "learn_seconds", "leakage_plain", "gate_recall",
        "gate_false_look_alike", "gate_false_other",
    )  # fmt: skip
    figures = {name.replace("look_alike", "lookalike"): round(rates[name], 4) for name in order}
    figures["context_kept"] = round(kept, 4)
    return {**figures, **(wordings_summary(tally) if "nll" in tally.outcomes else {})}


def print_figures(tally: Tally, figures: dict[str, float]) -> None:
    table = Table("figure", "mean", "spread over seeds", title="4 photos, the real gate")
    for name, value in figures.items():
        own = name.replace("lookalike", "look_alike")
        table.add_row(name, f"{value:.3f}", f"{tally.spread(own):.3f}" if own in tally.outcomes else "")
    Console(width=100).print(table)


def print_ablations(ablated: dict[str, Tally]) -> None:
    table = Table(
        "variant", "recall", "context kept", "leakage", title="gate told the truth, mean ± spread over seeds"
    )
    for name, tally in ablated.items():
        kept = tally.rate("context") / tally.rate("context_plain")
        spread = tally.spread("context") / tally.rate("context_plain")
        table.add_row(name, tally.show("recall"), f"{kept:.3f} ±{spread:.3f}", tally.show("leakage"))
    Console(width=100).print(table)


if __name__ == "__main__":
    run: Callable[..., None] = main
    typer.run(run)
