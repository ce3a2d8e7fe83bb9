"""The progress of learning where there is no terminal: in a notebook, with and without ipywidgets."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

CELLS = (
    """
import sys

sys.modules["ipywidgets"] = None  # as where it is not installed
from PIL import Image
from myvlm.images import load_images
from myvlm.learning import LearnRequest, LearnSettings
from myvlm.learning.dataset import Example
from myvlm.learning.progress import learning_progress
from myvlm.learning.dataset import Lesson

[photo] = load_images(Image.new("RGB", (4, 4)))
lesson = Lesson("sks", [photo], category="mug")
request = LearnRequest([Example(photo, ("<a note>",))], LearnSettings(steps=3), ("sks",))

def learn(shown):
    with learning_progress([lesson], [request], shown=shown) as report:
        for step in (1, 2, 3):
            report(step, 0.5, 0.01)
""",
    "learn(True)",
    "learn(False)",
)


def test_a_notebook_without_widgets_shows_one_bar_and_no_warning() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    loading, shown, silent = (cell.outputs for cell in notebook.cells)
    assert loading == silent == []
    [output] = shown
    assert output.output_type == "display_data"
    assert "3/3" in output.data["text/plain"]
    assert "learning sks" in output.data["text/plain"]
    assert "&lt;a note&gt;" in output.data["text/html"]
