"""Does a model follow the hint "There is no sks in this picture." when asked whether sks is in the picture?

    python benchmarks/absent.py --backbone tinyworld/llava

Shows pictures of look-alikes and of other objects, without heads. For each wording of the hint and each form
of question it counts the share of replies that begin with "no". The last line is one JSON object.
"""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from myvlm import MyVLM
from myvlm.speaking.addressing import ABSENT_HINT
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures

WORDINGS = (
    "", ABSENT_HINT, "There is no {} in the picture.", "There is no {} here.", "{} is not in this picture.",
    "{} is not in the picture.", "No {} is in the picture.", "The picture does not show {}.",
    "{} is not in this picture. There is no {} in this picture.",
    "{} is not in this picture: there is no {}.",
)  # fmt: skip
QUESTIONS = ("Is {} in the picture?", "Is {} here?", "Do you see {}?")
SEED = 7
"""A seed reserved for tuning: users that are measured have seeds below 6."""


def main(
    backbone: Annotated[str, typer.Option(help="An embedded backbone.")] = "tinyworld/llava",
    concepts: Annotated[int, typer.Option(help="Users whose names are asked for.")] = 4,
    tests: Annotated[int, typer.Option(help="Pictures of look-alikes and of other things, each.")] = 3,
) -> None:
    """Measure, print the table and, as the last line, one JSON object."""
    vlm = MyVLM.from_pretrained(backbone)
    kits = [few_shot(number, seed=SEED, tests=tests) for number in range(concepts)]
    shown = [pictures([*kit.look_alike, *kit.other]) for kit in kits]
    table = Table("wording", *QUESTIONS, "all", title=f"{backbone}: share of replies that begin with no")
    figures = {}
    for wording in WORDINGS:
        shares = []
        for question in QUESTIONS:
            no = []
            for kit, photos in zip(kits, shown, strict=True):
                told = wording.replace("{}", kit.identifier)
                asked = f"{told} {question.format(kit.identifier)}".strip()
                no += [
                    re.match(r"no\b", reply.text, re.IGNORECASE) is not None
                    for reply in vlm.ask(photos, asked)
                ]
            shares.append(sum(no) / len(no))
        figures[wording] = round(sum(shares) / len(shares), 3)
        table.add_row(
            wording or "nothing said", *(f"{share:.2f}" for share in shares), f"{figures[wording]:.2f}"
        )
    Console(width=120).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
