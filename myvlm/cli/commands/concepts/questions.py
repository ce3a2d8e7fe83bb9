"""`myvlm questions`: write the frozen model's answers about a concept to a file, to review before use."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import screen
from myvlm.concepts import editing
from myvlm.errors import NotWritableError
from myvlm.files import writing as page_file
from myvlm.text import check_identifier

Pairs = Sequence[tuple[str, str]]

ERROR_WORDS = {"what": "questions file", "option": "--out"}


def questions(
    identifier: Annotated[str, typer.Argument(help="Identifier to use in the questions.")],
    photos: Annotated[
        list[str],
        typer.Argument(metavar="PHOTOS...", help="Photos to learn from: files, a folder or patterns."),
    ],
    category: Annotated[str, typer.Option(help="General noun that the model is asked about, such as mug.")],
    kind: Annotated[
        str, typer.Option(help="object; or face, for questions about clothes, hair, glasses, beard, age.")
    ] = "object",
    ask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Your own question, with {} for the concept. Repeat the option for more."
        ),
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", "-o", help="Output file. Default: IDENTIFIER-questions.json.")
    ] = None,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Have the frozen model write question/answer pairs about each photo to a file.

    Review the file: correct wrong answers and delete irrelevant pairs. Then learn with it.

    myvlm questions sks mug/*.jpg --category mug

    myvlm learn sks mug/*.jpg --category mug --questions sks-questions.json
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        check_identifier(identifier)
        files = inputs.picture_files(photos)
        file = out_file or Path(f"{identifier}-questions.json".replace(" ", "-"))
        _check_place(file)
        vlm = opening.open_model(out, backbone, device, dtype)
        from myvlm.images import load_images
        from myvlm.learning.captions import write_questions

        with out.busy("asking"):
            pairs = write_questions(
                vlm.backbone,
                load_images(files),
                identifier=identifier,
                category=category,
                kind=kind,
                questions=ask,
            )
        by_photo = dict(zip(_photo_keys(files), pairs, strict=True))
        _write(file, by_photo)
        out.written.append(file)
        document: dict[str, Any] = {
            "command": "questions",
            "identifier": identifier,
            "category": category,
            "backbone": vlm.backbone.name,
            "file": str(file),
            "questions": by_photo,
            "unanswered": _unanswered(by_photo, [form.replace("{}", identifier) for form in ask or ()]),
        }
        out.show(document, _table(by_photo))
        for question in document["unanswered"]:
            out.note(f"Left out: {question!r}. The model cannot encode it, or its answers are empty.")
        learn = ["myvlm", "learn", identifier, "PHOTOS", "--category", category, "--questions", str(file)]
        out.note(
            f"Review {file}, then run: {shlex.join([*learn, *options.backbone_option(vlm.backbone.name)])}"
        )


def _unanswered(by_photo: Mapping[str, Pairs], questions: Sequence[str]) -> list[str]:
    """Return the user's questions that the model answered for no photo."""
    answered = {question for pairs in by_photo.values() for question, _ in pairs}
    return [question for question in questions if question not in answered]


def _photo_keys(files: Sequence[Path]) -> list[str]:
    """Return the photos' keys in the file: their names, or their paths if two have the same name."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def format_pairs(by_photo: Mapping[str, Pairs]) -> str:
    """Format the pairs as JSON with one pair per line, to be edited by hand.

    >>> print(format_pairs({"1.jpg": [("What colour is sks?", "red")], "2.jpg": []}))
    {
      "1.jpg": [
        ["What colour is sks?", "red"]
      ],
      "2.jpg": []
    }
    """
    entries = []
    for name, pairs in by_photo.items():
        lines = ",\n".join(f"    {json.dumps(list(pair), ensure_ascii=False)}" for pair in pairs)
        listed = f"[\n{lines}\n  ]" if lines else "[]"
        entries.append(f"  {json.dumps(name, ensure_ascii=False)}: {listed}")
    return "{\n" + ",\n".join(entries) + "\n}"


def _check_place(file: Path) -> None:
    """Raise NotWritableError if the file exists, since the user may have edited it, or cannot be written."""
    if file.exists():
        raise NotWritableError(
            f"{file} already exists.",
            got="a folder" if file.is_dir() else "a file",
            expected="a file name that is not in use",
            fix="choose another file with --out, or remove this one",
        )
    editing.check_writable(file)
    if file.parent.exists():
        page_file.check_place(file, **ERROR_WORDS)


def _write(file: Path, by_photo: Mapping[str, Pairs]) -> None:
    with suppress(OSError):  # writing the file reports why there is no folder
        file.parent.mkdir(parents=True, exist_ok=True)
    page_file.write_atomically(file, format_pairs(by_photo) + "\n", **ERROR_WORDS)


def _table(by_photo: Mapping[str, Pairs]) -> Table:
    table = Table("photo", "question", "answer", box=None, pad_edge=False)
    for name, pairs in by_photo.items():
        for question, answer in pairs:
            table.add_row(Text(name), Text(question), Text(answer))
    return table
