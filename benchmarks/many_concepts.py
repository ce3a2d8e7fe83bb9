"""Naming accuracy when a picture shows several concepts, each of which was learned alone.

    python benchmarks/many_concepts.py --backbone tinyworld/llava

A user learns several concepts that no training scene of tinyworld contains, and has all of them loaded.
Unseen pictures with zero to four of them, and with other objects if there is room, are captioned with the
real gate. Identifiers in the captions are compared with the concepts in the pictures: F1 by number of
concepts. For each correct identifier, the caption's words about it and next to it tell whether it names the
right object; for models that can ground, the model's box is checked too. The last line is one JSON object.

Two references are reported as well. "Gate told": the gate returns the ground truth. "In words": no
embeddings; the prompt tells the frozen model the names in its own language ("sks : mug ."), so errors are the
model's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from language.written import written
from rich.console import Console
from rich.table import Table
from tally import LOADED, Tally, in_processes

from myvlm import Lesson, MyVLM, Reply
from myvlm.backbones import ConceptRows
from myvlm.boxes import iou
from myvlm.learning.settings import default_settings
from myvlm.text import contains_word
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.multi_concept_user import MultiConceptUser, multi_concept_user
from myvlm.tinyworld.said import said_of_it
from myvlm.tinyworld.smollm2.english import SPOKEN_BY
from myvlm.tinyworld.world.scenes import Scene

Run = tuple[int, int, int, int]
"""Number of the user, seed, the user's number of concepts, pictures per number of concepts shown."""
OPEN, WORDS = "_gated_open", "_in_words"
"""Suffixes of figures: with the ground truth as the gate, and with names in the prompt instead of rows."""


def main(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")] = "tinyworld/llava",
    users: Annotated[int, typer.Option(help="Users a seed.")] = 4,
    size: Annotated[int, typer.Option(help="Concepts a user, all loaded together.")] = 5,
    seeds: Annotated[int, typer.Option(help="Seeds: 0, 1, …")] = 3,
    first: Annotated[int, typer.Option(help="The first seed; those from 6 on are for tuning.")] = 0,
    tests: Annotated[int, typer.Option(help="Unseen pictures for each number of concepts in them.")] = 20,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    dtype: Annotated[
        str, typer.Option(help="The model's; bfloat16 is faster where the CPU has it.")
    ] = "float32",
    keep: Annotated[Path | None, typer.Option(help="File of finished runs: a broken run goes on.")] = None,
) -> None:
    """Measure, print the tables and, as the last line, one JSON object."""
    runs = [(n, seed, size, tests) for n in range(users) for seed in range(first, first + seeds)]
    kept = read_kept(keep)
    todo = [run for run in runs if run not in kept]
    for run, tally in in_processes(one_run, todo, "users", backbone=backbone, dtype=dtype, workers=workers):
        kept[run] = tally
        append_kept(keep, run, tally)
    whole = Tally()
    for run in runs:
        whole.join(kept[run])
    counts = [count for count in range(size + 1) if f"true_{count}" in whole.outcomes]
    print_counts(whole, counts)
    print(json.dumps(summarise(whole, counts)))


def read_kept(file: Path | None) -> dict[Run, Tally]:
    """Read the runs that an earlier, interrupted call finished."""
    lines = file.read_text().splitlines() if file and file.exists() else ()
    return {tuple(entry["run"]): Tally.read(entry["own"]) for entry in map(json.loads, lines)}


def append_kept(file: Path | None, run: Run, tally: Tally) -> None:
    if file:
        with file.open("a") as lines:
            lines.write(json.dumps({"run": run, "own": tally.outcomes}) + "\n")


def one_run(run: Run) -> Tally:
    """Measure one user."""
    number, seed, size, tests = run
    user, tally = multi_concept_user(number, seed=seed, size=size, tests=tests), Tally()
    vlm = taught(LOADED["vlm"], user, seed)
    plain = LOADED["vlm"]
    for count, scenes in enumerate(user.scenes):
        shown = pictures(scenes)
        replies = vlm.caption(shown)
        for scene, reply in zip(scenes, replies, strict=True):
            tally_names(user, scene, reply.text, count, seed, tally)
            tally_gate(user, scene, reply, count, seed, tally)
        for scene, text in zip(scenes, speak_open(vlm, user, scenes), strict=True):
            tally_names(user, scene, text, count, seed, tally, how=OPEN)
        for scene, text in zip(scenes, speak_in_words(plain, user, scenes), strict=True):
            tally_names(user, scene, text, count, seed, tally, how=WORDS)
        with plain.generic():
            before = plain.caption(shown)
        same = [r.token_ids == p.token_ids for r, p in zip(replies, before, strict=True) if not r.seen]
        tally.add("plain_identical", seed, same)
        if vlm.backbone.refer("it"):
            tally_boxes(vlm, user, scenes, seed, tally)
    return tally


def taught(plain: MyVLM, user: MultiConceptUser, seed: int) -> MyVLM:
    """The model with all concepts of a user, each learned alone from captions, without questions or boxes."""
    vlm = MyVLM(plain.backbone.model, plain.backbone.processor, name=plain.backbone.name)
    settings = default_settings(vlm.backbone.name).model_copy(update={"seed": seed})
    kits = [written(kit) if vlm.backbone.name in SPOKEN_BY else kit for kit in user.kits]
    lessons = [
        Lesson(
            kit.identifier, kit.photos(), category=kit.category, captions=kit.captions(), settings=settings
        )
        for kit in kits
    ]
    vlm.learn_many(lessons, progress=False)
    return vlm


def speak_open(vlm: MyVLM, user: MultiConceptUser, scenes: Sequence[Scene]) -> list[str]:
    """Captions with the ground truth as the gate; concepts are in the library's order."""
    rows = []
    for scene in scenes:
        here = [vlm.concepts[name].embeddings[vlm.backbone.name] for name in vlm.concepts]
        present = [name in user.present(scene) for name in vlm.concepts]
        rows.append(
            [
                ConceptRows(torch.from_numpy(e.directions), e.norm)
                for e, is_here in zip(here, present, strict=True)
                if is_here
            ]
        )
    prompts = [vlm.backbone.caption_prompt] * len(scenes)
    return [g.text for g in vlm.backbone.generate(pictures(scenes), prompts, rows)]


def speak_in_words(plain: MyVLM, user: MultiConceptUser, scenes: Sequence[Scene]) -> list[str]:
    """Captions of the frozen model when the prompt says in its own language what the concepts are called."""
    backbone = plain.backbone
    hint = "{} is the {}." if backbone.name in SPOKEN_BY else "{} : {} ."
    prompts = []
    for scene in scenes:
        here = user.present(scene)
        told = [hint.format(kit.identifier, kit.category) for kit in user.kits if kit.identifier in here]
        prompts.append(" ".join([*told, backbone.caption_prompt]))
    return [g.text for g in backbone.generate(pictures(scenes), prompts, [[] for _ in scenes])]


# ---------------------------------------------------------------- one picture


def tally_names(
    user: MultiConceptUser, scene: Scene, text: str, count: int, seed: int, tally: Tally, *, how: str = ""
) -> None:
    """Count identifiers in the caption, concepts in the picture, and names used for the right object."""
    names, true = user.names, user.present(scene)
    said = {name for name in names.values() if contains_word(text, name)}
    looks = {name: look for look, name in names.items()}
    right = [said_of_it(text, name, scene, looks) for name in sorted(said & true)]
    tally.add(f"true_{count}{how}", seed, [len(true)])
    tally.add(f"said_{count}{how}", seed, [len(said)])
    tally.add(f"both_{count}{how}", seed, [len(said & true)])
    tally.add(f"right_thing{how}", seed, right)
    tally.add(f"right_thing_{count}{how}", seed, right)


def tally_gate(
    user: MultiConceptUser, scene: Scene, reply: Reply, count: int, seed: int, tally: Tally
) -> None:
    """Count the gate's detections of concepts that are in the picture and of those that are not."""
    true, seen = user.present(scene), set(reply.seen)
    absent = set(user.names.values()) - true
    tally.add(f"gate_recall_{count}", seed, [name in seen for name in true])
    tally.add(f"gate_false_{count}", seed, [name in seen for name in absent])


def tally_boxes(vlm: MyVLM, user: MultiConceptUser, scenes: Sequence[Scene], seed: int, tally: Tally) -> None:
    """Count whether `locate` finds each concept in the picture, and whether the model itself gave the box."""
    for scene, picture in zip(scenes, pictures(scenes), strict=True):
        for look, name in user.names.items():
            if thing := scene.find(look):
                place = vlm.locate(picture, name)
                good = place.box is not None and iou(place.box, thing.box) >= 0.5
                tally.add("iou50", seed, [good])
                if place.by:
                    tally.add("boxes_by_model", seed, [place.by == "model"])
                if place.by == "model":
                    tally.add("iou50_of_those_said", seed, [good])


# ---------------------------------------------------------------- tables


def f1(tally: Tally, count: int, how: str = "") -> float:
    said, true = tally.rate(f"said_{count}{how}"), tally.rate(f"true_{count}{how}")
    return 2 * tally.rate(f"both_{count}{how}") / (said + true)


def f1_spread(tally: Tally, count: int) -> float:
    """Standard deviation of F1 over seeds."""
    by_seed = Tally()
    for seed in tally.outcomes[f"true_{count}"]:
        alone = Tally({figure: {seed: own[seed]} for figure, own in tally.outcomes.items() if seed in own})
        by_seed.add("f1", seed, [f1(alone, count)])
    return by_seed.spread("f1")


def summarise(tally: Tally, counts: Sequence[int]) -> dict[str, float | None]:
    some = [count for count in counts if count]
    figures = {f"f1_{count}{how}": f1(tally, count, how) for how in ("", OPEN, WORDS) for count in some}
    rates = {
        "false_names": "said_0",
        **{f"right_thing{how}": f"right_thing{how}" for how in ("", OPEN, WORDS)},
    }
    rates |= {name: name for name in ("iou50", "boxes_by_model", "iou50_of_those_said", "plain_identical")}
    known = {name: tally.rate(own) if counted(tally, own) else None for name, own in rates.items()}
    return {name: None if value is None else round(value, 4) for name, value in {**figures, **known}.items()}


def counted(tally: Tally, figure: str) -> bool:
    """Whether a figure has any values: there are no boxes from a model that cannot ground, for example."""
    return any(tally.outcomes.get(figure, {}).values())


def print_counts(tally: Tally, counts: Sequence[int]) -> None:
    table = Table("concepts there", *(str(count) for count in counts), title="by concepts in the picture")
    some = [count for count in counts if count]

    def row(name: str, cells: Sequence[str]) -> None:
        table.add_row(name, *[""] * (len(counts) - len(cells)), *cells)

    row("F1", [f"{f1(tally, n):.3f} ±{f1_spread(tally, n):.3f}" for n in some])
    row("F1, gate told", [f"{f1(tally, n, OPEN):.3f}" for n in some])
    row("F1, in words", [f"{f1(tally, n, WORDS):.3f}" for n in some])
    for how, name in (("", ""), (OPEN, ", gate told"), (WORDS, ", in words")):
        row(f"right thing{name}", [shown(tally, f"right_thing_{n}{how}") for n in some])
    row("gate recall", [shown(tally, f"gate_recall_{n}") for n in some])
    row("gate false alarms", [shown(tally, f"gate_false_{n}") for n in counts])
    Console(width=110).print(table)


def shown(tally: Tally, figure: str) -> str:
    return tally.show(figure) if counted(tally, figure) else ""


if __name__ == "__main__":
    run: Callable[..., None] = main
    typer.run(run)
