"""Run the notebooks of `examples/`: `python -m tests.support.notebooks` keeps in them what they showed."""

from __future__ import annotations

import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"


def executed(file: Path, folder: Path) -> Any:
    """The notebook with what its cells show when they are run in that folder, one after the other."""
    notebook: Any = nbformat.read(file, as_version=4)
    kernel = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=kernel, record_timing=False
    ).execute()
    return notebook


def shapes(notebook: Any) -> list[list[tuple[str, ...]]]:
    """For each code cell what kinds of outputs it has: their types and forms, not what they say.

    What is printed in a row is one output, in however many pieces the kernel sends it.
    """
    kinds = (
        [(one.output_type, *sorted(one.get("data", ()))) for one in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    )
    return [[kind for kind, _ in groupby(own)] for own in kinds]


def text_of(notebook: Any) -> str:
    """All that a reader of the outputs reads."""
    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    return "\n".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in outputs)


def main(*names: str) -> None:
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or file.name[:2] in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = executed(file, Path(folder))
            notebook.metadata = {
                "kernelspec": notebook.metadata.kernelspec,
                "language_info": {"name": "python"},
            }
            nbformat.write(notebook, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
