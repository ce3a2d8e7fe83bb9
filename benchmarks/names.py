"""Effect of the choice of identifier, and what an embedding knows about a concept without a picture of it.

    python benchmarks/names.py --backbone tinyworld/smollm2 --dtype bfloat16

The same users learn the same photos under names of one, two and four tokens, capitalized and of two words.
"Blind" questions are asked about a grey picture, as if the head had detected the concept in it, since every
family needs a picture. The last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

import typer
from language.wordings import INSTRUCTIONS, answered, is_degenerate
from language.written import written
from PIL import Image
from rich.console import Console
from rich.table import Table
from tally import LOADED, Tally, in_processes

from myvlm import MyVLM
from myvlm.images import load_images
from myvlm.learning.settings import default_settings
from myvlm.speaking.addressing import generate_replies
from myvlm.text import contains_word
from myvlm.tinyworld import FewShot, few_shot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.smollm2.english import SPOKEN_BY, as_sentence

NAMES = ("Bo", "Anna", "sks", "blorp", "Quizzlefrotz", "Anna Maria", "Mister Fluff")
"""Short and long names, with and without meaning, of one and two words; the table has their token counts."""

SEED = 8
"""A seed reserved for tuning: users that are measured have seeds below 6."""

GREY = Image.new("RGB", (224, 224), (128, 128, 128))

FIGURES = (
    "recall", "as_written", "unseen_wording", "unseen_question", "degenerate", "blind_attribute",
    "blind_category", "blind_plain",
)  # fmt: skip

Run = tuple[int, str, int]
"""Number of the user, the name, number of unseen pictures."""


def main(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")] = "tinyworld/smollm2",
    users: Annotated[int, typer.Option(help="Users, each of whom uses all names.")] = 3,
    tests: Annotated[int, typer.Option(help="Unseen pictures a user.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes, of one thread each.")] = 2,
    dtype: Annotated[str, typer.Option(help="The model's.")] = "float32",
) -> None:
    """Measure, print the table and, as the last line, one JSON object."""
    runs = [(user, name, tests) for name in NAMES for user in range(users)]
    by_name, tokens = {name: Tally() for name in NAMES}, {}
    done = in_processes(one_run, runs, "names", backbone=backbone, dtype=dtype, workers=workers)
    for (_, name, _), (count, tally) in done:
        tokens[name] = count
        by_name[name].join(tally)
    table = Table("name", "tokens", *FIGURES, title=f"{backbone}: {users} users")
    for name, tally in by_name.items():
        table.add_row(name, str(tokens[name]), *(f"{tally.rate(figure):.2f}" for figure in FIGURES))
    Console(width=140).print(table)
    figures = {name: {f: round(tally.rate(f), 3) for f in FIGURES} for name, tally in by_name.items()}
    print(json.dumps(figures))


def one_run(run: Run) -> tuple[int, Tally]:
    """Number of tokens of the name in a sentence, and the measurements of one user with it."""
    number, name, tests = run
    vlm = LOADED["vlm"]
    kit = replace(few_shot(number, seed=SEED, tests=tests), identifier=name)
    if vlm.backbone.name in SPOKEN_BY:
        kit = written(kit)
    settings = default_settings(vlm.backbone.name).model_copy(update={"seed": SEED})
    user = MyVLM(vlm.backbone.model, vlm.backbone.processor, name=vlm.backbone.name)
    user.learn(
        name, kit.photos(), category=kit.category, captions=kit.captions(), questions=kit.questions(),
        settings=settings, progress=False,
    )  # fmt: skip
    return len(vlm.backbone.word_ids(name)), measured(user, kit)


def measured(user: MyVLM, kit: FewShot) -> Tally:
    """Measure a model that has learned the concept."""
    tally, name, photos = Tally(), kit.identifier, pictures(kit.present)
    captions = [reply.text for reply in user.caption(photos)]
    tally.add("recall", SEED, [contains_word(text, name) for text in captions])
    tally.add("as_written", SEED, [name in text for text in captions])
    for number, instruction in enumerate(INSTRUCTIONS):
        for reply in user.caption(photos[number :: len(INSTRUCTIONS)], prompt=instruction):
            tally.add("unseen_wording", SEED, [contains_word(reply.text, name)])
            tally.add("degenerate", SEED, [is_degenerate(reply, name)])
    tally.add("unseen_question", SEED, answered(user, kit, SEED))
    tally.add("blind_attribute", SEED, [blind(user, kit, f"What colour is {name}?", kit.look.colour)])
    tally.add("blind_category", SEED, [blind(user, kit, f"What is {name}?", kit.category)])
    with user.generic():
        plain = user.ask(GREY, as_sentence(f"What colour is the {kit.category}?")).text
    tally.add("blind_plain", SEED, [contains_word(plain, kit.look.colour)])
    return tally


def blind(user: MyVLM, kit: FewShot, question: str, answer: str) -> bool:
    """Whether a question about a grey picture is answered correctly when the concept's rows are inserted."""
    [said] = generate_replies(
        user.backbone, load_images([GREY]), [[user.concepts[kit.identifier]]], [as_sentence(question)], {}
    )
    return contains_word(said.text, answer)


if __name__ == "__main__":
    run: Callable[..., None] = main
    typer.run(run)
