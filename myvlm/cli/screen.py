"""Output of a command: its result on stdout, everything else on stderr, and an exit code.

| code | meaning |
|---|---|
| 0 | done |
| 1 | unexpected: a bug in this library or a fault of the machine, with a traceback |
| 2 | bad input: the message says what, got, expected and fix; no file is left half-written |
| 3 | no such concept or model |
| 130 | stopped by Ctrl-C; the message says what was written |
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stdout,
    suppress,
)
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from myvlm.errors import InputError, MyVLMError, NotWritableError, UnknownBackboneError, UnknownConceptError

UNEXPECTED, BAD_INPUT, NOT_FOUND, STOPPED = 1, 2, 3, 130


class Screen:
    """Shows the result, the notes and the progress of one run of a command.

    Text is not wrapped here, so that paths and commands can be copied; the terminal wraps it.

    Args:
        stdout: stream for the result, and nothing else.
        as_json: show the result as one JSON document.
        quiet: show no notes and no progress.

    Attributes:
        failures: number of inputs that could not be used while the others were processed.
        written: files and addresses written so far, listed if the user stops the command.
        until_end: contexts that are closed when the command ends, such as copies of remote concepts.
    """

    def __init__(self, stdout: TextIO, *, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self.failures = 0
        self.written: list[Path | str] = []
        self.until_end = ExitStack()
        self._stdout = stdout
        self._results = Console(file=stdout)
        self._notes = Console(stderr=True)
        self._partial: tuple[dict[str, Any], Table] | None = None

    def show(self, document: dict[str, Any], *parts: Text | Table) -> None:
        """Show the result: `document` with `as_json`, else the parts; in a pipe, tables are tab-separated.

        Raises:
            NotWritableError: stdout cannot be written to, for example because a disk is full.
        """
        if self.as_json:
            self._write(json.dumps(document, indent=2) + "\n")
        elif self._results.is_terminal:
            for part in parts:
                for column in part.columns if isinstance(part, Table) else ():
                    column.overflow = "fold"  # rich would cut a long path
                self._results.print(part, soft_wrap=isinstance(part, Text))
        else:
            self._write("".join(map(_plain_text, parts)))

    def show_each(
        self,
        call: dict[str, Any],
        columns: Sequence[str],
        results: Iterable[tuple[dict[str, Any], Sequence[Text]]],
        total: int,
    ) -> None:
        """Show the results of many pictures; in a pipe, each line as soon as it is ready.

        If the command is stopped or fails, the results so far are shown.

        Args:
            call: entries of the document besides `interrupted` and `pictures`.
            columns: column titles.
            results: for each picture its document and its cells.
            total: number of pictures, for the progress bar.
        """
        document: dict[str, Any] = {**call, "interrupted": False, "pictures": []}
        table = Table(*columns, box=None, pad_edge=False)
        by_line = not self.as_json and not self._results.is_terminal
        with self.progress("pictures", total) as bar:
            for picture, cells in results:
                document["pictures"].append(picture)
                table.add_row(*cells)
                if by_line:
                    self._write(
                        _tab_separated(cells)
                        if self._partial
                        else _tab_separated(columns) + _tab_separated(cells)
                    )
                self._partial = document, table
                bar.advance(bar.task_ids[0])
        if not by_line:
            self.show(document, table)

    def note(self, text: str) -> None:
        """Show a line of plain text on stderr, unless `quiet`."""
        if not self.quiet:
            self._print_stderr(Text(text, style="dim"))

    def busy(self, text: str) -> AbstractContextManager[object]:
        """Show a spinner while work of unknown length runs."""
        return nullcontext() if self.quiet else self._notes.status(Text(text))

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Progress]:
        """Show a progress bar with the count and the time left; none if there is nothing to do."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._notes, disable=self.quiet or not total) as bar:
            bar.add_task(text, total=total)
            yield bar

    def fail(self, error: MyVLMError) -> None:
        """Show an error, and count it as a failure."""
        self._print_stderr(Text.assemble(("error: ", "bold red"), str(error)))
        self.failures += 1

    def stop(self, why: KeyboardInterrupt) -> None:
        """Report that Ctrl-C stopped the command, and show the results so far."""
        self._show_partial({"interrupted": True})
        if self._partial:
            what = f"Stopped after {len(self._partial[0]['pictures'])} pictures."
        elif self.written:
            what = f"Stopped. Already written: {', '.join(map(str, self.written))}."
        else:
            what = f"Stopped. {str(why) or 'Nothing was written.'}"
        self._print_stderr(Text(what))

    def report_error(self, error: Exception) -> None:
        """Report the error that ended the command, and show the results so far."""
        if isinstance(error, MyVLMError):
            self.fail(error)
            self._show_partial({"error": as_document(error)})
        else:
            traceback.print_exc()
            self._print_stderr(Text("This is probably a bug in myvlm: please report it."))
            self._show_partial({"error": {"kind": type(error).__name__, "what": str(error)}})

    def _show_partial(self, why: dict[str, Any]) -> None:
        document, *tables = self._partial or ({},)
        try:
            if self.as_json or self._results.is_terminal:  # a pipe has the lines already
                self.show({**document, **why}, *tables)
        except NotWritableError as error:
            self.fail(error)

    def _print_stderr(self, text: Text) -> None:
        self._notes.print(text, soft_wrap=True)

    def _write(self, text: str) -> None:
        if self._stdout.closed:
            return
        try:
            self._stdout.write(text)
            self._stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            with suppress(OSError):
                self._stdout.close()  # otherwise Python flushes again at exit, with a traceback
            raise NotWritableError(
                "The result cannot be written to the standard output.",
                got=f"{type(error).__name__}: {error.strerror or error}",
                expected="a file or a pipe that can be written to",
                fix="check whether the disk is full",
            ) from error


@contextmanager
def screen(*, as_json: bool, quiet: bool) -> Iterator[Screen]:
    """Run a command's body; turn whatever it raises into a message and an exit code."""
    out = Screen(sys.stdout, as_json=as_json, quiet=quiet)
    try:
        with (
            out.until_end,
            redirect_stdout(sys.stderr),
        ):  # other libraries must not print into a JSON document
            yield out
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt as why:
        out.stop(why)
        raise typer.Exit(STOPPED) from None
    except Exception as error:
        known = _as_input_error(error) if type(error) is PermissionError else error
        out.report_error(known)
        unknown = isinstance(known, UnknownConceptError | UnknownBackboneError)
        bad = BAD_INPUT if isinstance(known, MyVLMError) else UNEXPECTED
        raise typer.Exit(NOT_FOUND if unknown else bad) from None
    if out.failures:
        raise typer.Exit(BAD_INPUT)


def as_document(error: MyVLMError) -> dict[str, Any]:
    """Return an error as a JSON-serializable dict.

    >>> from myvlm.errors import InputError
    >>> as_document(InputError("No.", got=3, expected="4"))["got"]
    '3'
    """
    parts = {"what": error.what, "got": error.got, "expected": error.expected, "fix": error.fix}
    return {
        "kind": type(error).__name__,
        **{name: None if part is None else str(part) for name, part in parts.items()},
    }


def _as_input_error(error: PermissionError) -> InputError:
    return InputError(
        f"There is no permission to use {error.filename or 'a file'}.",
        got=error.strerror or str(error),
        expected="read permission, and write permission where files are written",
        fix="change its permissions, or choose another file or folder",
    )


def _plain_text(part: Text | Table) -> str:
    """Return a part of the result as plain lines for a pipe.

    >>> table = Table("photo", "seen")
    >>> table.add_row(Text("1.png"), "sks")
    >>> _plain_text(table)
    'photo\\tseen\\n1.png\\tsks\\n'
    """
    if isinstance(part, Text):
        return f"{part.plain}\n"
    rows = list(zip(*(column.cells for column in part.columns), strict=True))
    if part.show_header:
        rows.insert(0, tuple(column.header for column in part.columns))
    if part.title:
        rows.insert(0, (part.title,))
    return "".join(map(_tab_separated, rows))


def _tab_separated(cells: Iterable[object]) -> str:
    """Join cells by tabs into one line; tabs and line breaks within a cell become spaces."""
    return "\t".join(" ".join(str(cell).replace("\t", " ").splitlines()) for cell in cells) + "\n"
