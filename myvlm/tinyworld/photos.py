"""`python -m myvlm.tinyworld.photos OUT`: write one user's photos to files, to try the command line with.

Writes `train/1.png` …, `captions.json` (file name → captions) and `unseen/` with pictures that show the
concept, a look-alike, or neither.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from myvlm.tinyworld.fewshot import FewShot, few_shot, pictures


def write_photos(kit: FewShot, folder: Path) -> None:
    """Write a few-shot set to files; an existing folder is added to."""
    groups = {"train": kit.train, "unseen/with": kit.present, "unseen/look-alike": kit.look_alike}
    for name, scenes in {**groups, "unseen/without": kit.other}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures(scenes), start=1):
            picture.save(folder / name / f"{number}.png")
    captions = {f"{n}.png": texts for n, texts in enumerate(kit.captions(), start=1)}
    (folder / "captions.json").write_text(json.dumps(captions, indent=2) + "\n", encoding="utf-8")


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    number: Annotated[int, typer.Option(help="Index of the user.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
) -> None:
    """Write the photos, and say how to learn from them."""
    kit = few_shot(number, seed=seed, tests=6)
    write_photos(kit, out)
    console = Console()
    console.print(f"wrote {out}: {kit.identifier}, a {kit.category}. Now try", highlight=False)
    console.print(
        f"myvlm learn {kit.identifier} {out}/train --category {kit.category} "
        f"--captions {out}/captions.json --out {out}/concept",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    typer.run(main)
