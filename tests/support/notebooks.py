"""Run the notebooks of `examples/`; `python -m tests.support.notebooks` stores their new outputs."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "examples" / "notebooks"


@contextmanager
def running_kernel() -> Iterator[KernelManager]:
    """A kernel for several notebooks, so that imports and models are loaded only once."""
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel()
    try:
        yield kernel
    finally:
        kernel.shutdown_kernel()


def executed(file: Path, folder: Path, kernel: KernelManager) -> Any:
    """The notebook with the outputs of its cells, run in order in that folder.

    Names that earlier notebooks left in the kernel are deleted first.
    """
    notebook: Any = nbformat.read(file, as_version=4)
    _emptied(kernel, folder)
    client = NotebookClient(notebook, kernel, timeout=600, record_timing=False)
    try:
        client.execute()
    finally:
        if client.kc is not None:
            client.kc.stop_channels()
    return notebook


def _emptied(kernel: KernelManager, folder: Path) -> None:
    """Delete all names and change into that folder, without counting a cell."""
    client = kernel.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=600)
        done = client.execute_interactive(
            f"%reset -f\nimport os\nos.chdir({str(folder)!r})\ndel os", silent=True, timeout=600
        )
        assert done["content"]["status"] == "ok", done["content"]
    finally:
        client.stop_channels()


def shapes(notebook: Any) -> list[list[tuple[str, ...]]]:
    """The kinds of outputs of each code cell: their types and formats, not their content.

    Consecutive prints count as one output, in however many pieces the kernel sends them.
    """
    kinds = (
        [(one.output_type, *sorted(one.get("data", ()))) for one in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    )
    return [[kind for kind, _ in groupby(own)] for own in kinds]


def text_of(notebook: Any) -> str:
    """The text of all outputs."""
    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    return "\n".join(one.get("text", "") or one.get("data", {}).get("text/plain", "") for one in outputs)


def main(*names: str) -> None:
    for file in sorted(NOTEBOOKS.glob("*.ipynb")):
        if not names or file.name[:2] in names:
            with tempfile.TemporaryDirectory() as folder, running_kernel() as kernel:
                notebook = executed(file, Path(folder), kernel)
            notebook.metadata = {
                "kernelspec": notebook.metadata.kernelspec,
                "language_info": {"name": "python"},
            }
            nbformat.write(notebook, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
