"""Every notebook of `examples/notebooks/` runs in an empty working folder and shows what it promises."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbformat.v4 import new_code_cell, new_notebook

from tests.support.notebooks import NOTEBOOKS, executed, running_kernel, shapes, text_of

PROMISED = {
    "01_your_mug_in_five_minutes": r"different +\('ulmo',\)(.|\n)*the same +\(\)(.|\n)* on disk(.|\n)*ulmo",
    "02_a_family": r"all names right in ([789]|10) of 10 pictures",
    "03_questions": r"[456] of 6 places right",
    "04_is_it_any_good": r"detected 10, named 10(.|\n)*photos of mox, 95 % interval",
    "05_another_model": r"llava:(.|\n)*blip2:",
    "06_what_it_looks_at": "inside its box",
}
"""A pattern that the outputs of each notebook must contain."""


def test_notebooks_keep_what_they_showed_and_nothing_of_where_they_ran() -> None:
    files = sorted(NOTEBOOKS.iterdir())
    assert [file.stem for file in files] == sorted(PROMISED)
    for file in files:
        notebook: Any = nbformat.read(file, as_version=4)
        assert any(shapes(notebook)), f"{file.name} was kept without its outputs"
        assert re.search(PROMISED[file.stem], text_of(notebook)), file.name
        words = re.sub(r"[A-Za-z0-9+/]{200,}", "", file.read_text(encoding="utf-8"))  # no pictures
        for place in ("/tmp", "/home", "/work", "site-packages"):
            assert place not in words, f"{file.name} names a place of one machine"


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
        with running_kernel() as running:
            yield running


# jupyter_client warns about its own future versions, and the garbage collector closes the kernel's sockets
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", PROMISED)
def test_notebook(name: str, tmp_path: Path, kernel: KernelManager) -> None:
    file = NOTEBOOKS / f"{name}.ipynb"
    kept: Any = nbformat.read(file, as_version=4)
    notebook = executed(file, tmp_path, kernel)
    assert shapes(notebook) == shapes(kept), "run `python -m tests.support.notebooks` and look at it"
    assert re.search(PROMISED[name], text_of(notebook))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")
def test_a_notebook_has_no_name_and_no_folder_of_the_one_before(
    tmp_path: Path, kernel: KernelManager
) -> None:
    look = "import os; print(os.getcwd(), 'left' in globals())"
    cells, shown = {"first": "left = 3", "second": look}, list[str]()
    for name, code in cells.items():
        nbformat.write(new_notebook(cells=[new_code_cell(code)]), tmp_path / f"{name}.ipynb")
        (tmp_path / name).mkdir()
        shown.append(text_of(executed(tmp_path / f"{name}.ipynb", tmp_path / name, kernel)).strip())
    assert shown == ["", f"{tmp_path / 'second'} False"]
