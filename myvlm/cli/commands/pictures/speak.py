"""`myvlm caption` and `myvlm ask`, for one picture or for albums; batches keep the memory use bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from myvlm.cli import inputs, opening, options
from myvlm.cli.screen import Screen, as_document, screen
from myvlm.errors import InputError, MyVLMError

if TYPE_CHECKING:
    from myvlm.api import MyVLM
    from myvlm.results import Reply
    from myvlm.speaking.batches import OnError

SpeakBatch: TypeAlias = "Callable[[MyVLM, Sequence[Path], OnError], list[Reply]]"

Batch = Annotated[int, typer.Option(min=1, help="Pictures per batch.")]
Plain = Annotated[bool, typer.Option("--plain", help="Use the frozen model without concepts.")]


@dataclass(frozen=True)
class AlbumEntry:
    """The reply about one picture, or the error; it holds no pixels."""

    picture: Path
    text: str = ""
    detections: Sequence[Any] = ()
    absent: Sequence[str] = ()
    error: MyVLMError | None = None

    @property
    def seen(self) -> str:
        return ", ".join(f"{d.identifier} {d.probability:.0%}" for d in self.detections if d.present)

    def as_document(self) -> dict[str, Any]:
        if self.error:
            return {"picture": str(self.picture), "error": as_document(self.error)}
        return {
            "picture": str(self.picture),
            "text": self.text,
            "seen": [d.identifier for d in self.detections if d.present],
            "absent": list(self.absent),
            "detections": [
                {
                    "identifier": d.identifier,
                    "probability": round(d.probability, 4),
                    "present": d.present,
                    "verdict": d.verdict,
                    "box": [round(edge, 1) for edge in d.box] if d.box else None,
                }
                for d in self.detections
            ],
        }


def caption(
    pictures: options.Pictures,
    concepts: options.ConceptFolders = None,
    prompt: Annotated[str | None, typer.Option(help="Instruction in place of the model's own.")] = None,
    plain: Plain = False,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    batch: Batch = 8,
    false_names: options.FalseNames = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Describe pictures, naming the concepts detected in them.

    myvlm caption desk.jpg · myvlm caption holiday/ --concepts concepts/sks-mug --json
    """

    def speak(vlm: MyVLM, photos: Sequence[Path], errors: OnError) -> list[Reply]:
        return vlm.caption(photos, prompt=prompt, errors=errors)

    with screen(as_json=as_json, quiet=quiet) as out:
        files, folders = _resolve_inputs(out, pictures, concepts, plain)
        vlm = _open_with_concepts(out, backbone, device, dtype, folders, false_names)
        entries = _entries(out, vlm, files, batch, speak)
        _show(out, vlm, entries, {"command": "caption", "prompt": prompt}, files, pictures)


def ask(
    *,
    # Optional for the parser, which would otherwise miss a picture where the question is left out.
    pictures: options.OptionalPictures = None,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="Question; refer to concepts by identifier.")
    ],
    concepts: options.ConceptFolders = None,
    plain: Plain = False,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    batch: Batch = 8,
    false_names: options.FalseNames = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask a question about one or more pictures.

    myvlm ask desk.jpg "What is next to sks?"
    """

    def speak(vlm: MyVLM, photos: Sequence[Path], errors: OnError) -> list[Reply]:
        return vlm.ask(photos, question, errors=errors)

    with screen(as_json=as_json, quiet=quiet) as out:
        if not question.strip() or isfile(question):  # os.path, as pathlib raises OSError for a long question
            raise InputError(
                "The last argument is not a question.",
                got=repr(question),
                expected="myvlm ask PICTURE... QUESTION",
                fix="put the question last, in quotes",
            )
        if not pictures:
            raise InputError(
                "A picture or the question is missing.",
                got=repr(question),
                expected="myvlm ask PICTURE... QUESTION",
                fix="write both: first the pictures, then the question in quotes",
            )
        files, folders = _resolve_inputs(out, pictures, concepts, plain)
        vlm = _open_with_concepts(out, backbone, device, dtype, folders, false_names)
        entries = _entries(out, vlm, files, batch, speak)
        _show(out, vlm, entries, {"command": "ask", "question": question}, files, pictures)


def _resolve_inputs(
    out: Screen, pictures: Sequence[str], concepts: Sequence[str] | None, plain: bool
) -> tuple[list[Path], list[tuple[Path, bool]]]:
    """Resolve pictures and concept folders before the model is loaded, so that errors come early."""
    return inputs.picture_files(pictures), [] if plain else opening.chosen_folders(out, concepts)


def _open_with_concepts(
    out: Screen,
    backbone: str,
    device: str | None,
    dtype: options.Dtype | None,
    folders: Sequence[tuple[Path, bool]],
    false_names: float | None,
) -> MyVLM:
    vlm = opening.open_model(out, backbone, device, dtype, false_names)
    with out.busy("loading concepts"):
        opening.add_concepts(out, vlm, folders)
    return vlm


def _entries(
    out: Screen, vlm: MyVLM, files: Sequence[Path], batch: int, speak: SpeakBatch
) -> Iterator[AlbumEntry]:
    """Yield an entry per picture, batch by batch; the entry of an unusable picture holds its error."""
    for start in range(0, len(files), batch):
        some = files[start : start + batch]
        for file, reply in zip(some, speak(vlm, some, "keep" if files[1:] else "raise"), strict=True):
            if reply.error:
                out.fail(reply.error)
            yield AlbumEntry(file, reply.text, reply.detections, reply.absent, reply.error)


def _show(
    out: Screen,
    vlm: MyVLM,
    entries: Iterator[AlbumEntry],
    call: dict[str, Any],
    files: Sequence[Path],
    sources: Sequence[str],
) -> None:
    call = {**call, "backbone": vlm.backbone.name, "concepts": list(vlm.concepts)}
    if [str(file) for file in files] == sources[:1]:
        with out.busy("generating"):
            [one] = entries
        out.show({**call, "interrupted": False, "pictures": [one.as_document()]}, _entry_text(one))
    else:
        columns = ("picture", "seen", "caption" if call["command"] == "caption" else "answer")
        out.show_each(call, columns, ((one.as_document(), _entry_cells(one)) for one in entries), len(files))


def _entry_text(entry: AlbumEntry) -> Text:
    text = Text(entry.text)
    for detection in entry.detections:
        if detection.present:
            text.highlight_words([detection.identifier], style="bold magenta", case_sensitive=False)
    seen = f"\nseen: {entry.seen}" if entry.seen else ""
    absent = f"\nabsent: {', '.join(entry.absent)}" if entry.absent else ""
    return Text.assemble(text, (seen + absent, "dim"))


def _entry_cells(entry: AlbumEntry) -> tuple[Text, Text, Text]:
    text = Text(f"error: {entry.error.what}", style="red") if entry.error else Text(entry.text)
    seen = [entry.seen] if entry.seen else []
    detected = ", ".join([*seen, *(f"not {name}" for name in entry.absent)])
    return Text(str(entry.picture)), Text(detected or "–"), text
