"""What a command says, and where: its result on stdout, everything else on stderr, and an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: a fault of this library or of the machine, with its traceback |
| 2 | bad input: what, got, expected and what to do about it; nothing was half-written |
| 3 | no such concept or model |
| 130 | stopped by Ctrl-C; what was written is said |
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from myvlm.errors import MyVLMError, UnknownBackboneError, UnknownConceptError

UNEXPECTED, BAD_INPUT, NOT_FOUND, STOPPED = 1, 2, 3, 130


class Screen:
    """Where one run of a command shows its result, its notes and its progress.

    Args:
        stdout: for the result alone.
        as_json: show the result as one JSON document.
        quiet: no notes and no progress.
    """

    def __init__(self, stdout: TextIO, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.failures = 0
        self.written: list[Path] = []
        self._stdout = stdout
        self._results = Console(file=stdout)
        self._notes = Console(stderr=True)

    def show(self, document: dict[str, Any], rendered: RenderableType) -> None:
        """The result, once: `document` for programs, `rendered` for people."""
        if self.as_json:
            self._stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
            self._stdout.flush()
        else:
            self._results.print(rendered)

    def note(self, text: str) -> None:
        """A line for people only, on stderr; plain text."""
        if not self.quiet:
            self._notes.print(Text(text, style="dim"))

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show that something without a known end is under way."""
        return nullcontext() if self.quiet else self._notes.status(Text(text))

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Progress]:
        """A bar with the count and the time left; `advance(0, n)` moves it."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._notes, disable=self.quiet) as bar:
            bar.add_task(text, total=total)
            yield bar

    def fail(self, error: MyVLMError) -> None:
        """Say what was wrong with the input."""
        self._notes.print(Panel(_told(error), title="error", title_align="left", border_style="red"))
        self.failures += 1


@contextmanager
def screen(*, as_json: bool, quiet: bool) -> Iterator[Screen]:
    """A command's body runs in this; whatever it raises becomes words and an exit code."""
    stdout = sys.stdout
    shown = Screen(stdout, as_json=as_json, quiet=quiet)
    try:
        with redirect_stdout(sys.stderr):  # what other libraries print must not mix with a JSON document
            yield shown
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        wrote = ", ".join(map(str, shown.written))
        what = f"Stopped, after {wrote} was written." if wrote else "Stopped. Nothing was written."
        shown._notes.print(Text(what))
        raise typer.Exit(STOPPED) from None
    except MyVLMError as error:
        shown.fail(error)
        if as_json:
            shown.show({"error": as_document(error)}, "")
        unknown = isinstance(error, UnknownConceptError | UnknownBackboneError)
        raise typer.Exit(NOT_FOUND if unknown else BAD_INPUT) from None
    except Exception as error:
        traceback.print_exc()
        shown._notes.print(Text("This is unexpected, and likely a fault of myvlm: please report it."))
        if as_json:
            shown.show({"error": {"kind": type(error).__name__, "what": str(error)}}, "")
        raise typer.Exit(UNEXPECTED) from None
    if shown.failures:
        raise typer.Exit(BAD_INPUT)


def as_document(error: MyVLMError) -> dict[str, Any]:
    """An error as plain values.

    >>> from myvlm.errors import InputError
    >>> as_document(InputError("No.", got=3, expected="4"))["got"]
    '3'
    """
    parts = {"what": error.what, "got": error.got, "expected": error.expected, "fix": error.fix}
    return {
        "kind": type(error).__name__,
        **{name: None if part is None else str(part) for name, part in parts.items()},
    }


def _told(error: MyVLMError) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    parts = (("", error.what), ("got", error.got), ("expected", error.expected), ("fix", error.fix))
    for label, part in parts:
        if part is not None:
            table.add_row(label, Text(str(part), style="" if label else "bold"))
    return table
