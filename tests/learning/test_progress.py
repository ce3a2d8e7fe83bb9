"""The progress of learning: on a terminal, in a pipe, and in a notebook without ipywidgets."""

from __future__ import annotations

import io
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from myvlm import Lesson
from myvlm.images import load_images
from myvlm.learning import LearnRequest, LearnSettings
from myvlm.learning import progress as shows
from myvlm.learning.dataset import Example
from myvlm.learning.progress import LearningProgress, learning_progress

CELLS = (
    """
import sys

sys.modules["ipywidgets"] = None  # as where it is not installed
from PIL import Image
from myvlm import MyVLM
import transformers, huggingface_hub, open_clip
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
            report(step, 0.5, 0.01, 0.75)
""",
    "learn(True)",
    "learn(False)",
)


def test_a_notebook_without_widgets_shows_one_bar_and_no_warning() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    loading, shown, silent = (cell.outputs for cell in notebook.cells)
    assert loading == silent == []
    [output] = shown
    assert output.output_type == "display_data"
    assert "3/3" in output.data["text/plain"]
    assert "learned sks" in output.data["text/plain"]
    assert "loss 0.500" in output.data["text/plain"]
    assert "named in 75%" in output.data["text/html"]
    assert '<progress value="3" max="3"' in output.data["text/html"]
    assert "&lt;a note&gt;" in output.data["text/html"]


class Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def learned(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, captions: object = ["sks"]) -> str:
    """The error stream during three steps that take a minute each."""
    clock = iter(range(0, 6000, 60))
    monkeypatch.setattr(shows, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(sys, "stderr", screen := Screen(terminal))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    [photo] = load_images(Image.new("RGB", (4, 4)))
    lesson = Lesson("sks", [photo], category="mug", captions=captions)
    request = LearnRequest([Example(photo, ("[red] sks",))], LearnSettings(steps=4), ("sks",))
    with learning_progress([lesson], [request], shown=True) as report:
        for step, said in ((1, None), (2, 0.5), (3, 0.75)):
            report(step, 0.5, 0.01, said)
    return screen.getvalue()


def test_in_a_pipe_there_is_a_line_now_and_then_with_loss_name_said_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = learned(monkeypatch, terminal=False).splitlines()
    assert lines[0] == "preparing sks 0/4"
    assert lines[1] == "learning sks 1/4 · loss 0.500 + 0.25·0.0100"
    assert lines[2].startswith("learning sks 2/4 · loss 0.500 + 0.25·0.0100 · named in 50% · ")
    assert lines[2].endswith(" left")
    assert "named in 75%" in lines[3]
    assert lines[-1].startswith("learned sks 3/4 · ")
    assert "\x1b" not in "".join(lines)


def test_between_two_lines_in_a_pipe_some_seconds_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shows, "PIPE_PAUSE", 1e9)
    lines = learned(monkeypatch, terminal=False).splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["preparing sks 0/4", "learned sks 3/4"]


def test_a_terminal_has_a_bar_with_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = learned(monkeypatch, terminal=True, captions=None)
    assert "━" in shown
    assert "3/4" in shown
    assert "named in 75%" in shown
    assert "the model wrote these" in shown
    assert "[red] sks" in shown, "what is written is no markup"


def test_what_fails_is_not_said_to_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen(False))
    [photo] = load_images(Image.new("RGB", (4, 4)))
    request = LearnRequest([Example(photo, ("sks",))], LearnSettings(steps=4), ("sks",))
    lesson = Lesson("sks", [photo], category="mug", captions=["sks"])
    with pytest.raises(ValueError, match="no"), learning_progress([lesson], [request], shown=True):
        raise ValueError("no")
    assert screen.getvalue().splitlines()[-1].startswith("stopped learning sks")


def test_a_callback_is_told_of_every_step_and_of_the_end() -> None:
    [photo] = load_images(Image.new("RGB", (4, 4)))
    request = LearnRequest([Example(photo, ("sks",))], LearnSettings(steps=4), ("sks",))
    lesson = Lesson("sks", [photo], category="mug", captions=["sks"])
    told: list[str] = []
    with learning_progress([lesson], [request], shown=lambda state: told.append(state.line)) as report:
        report(1, 0.5, 0.01, None)
        report(2, 0.5, 0.01, 0.5)
    assert [one.split(" · ")[0] for one in told] == [
        "preparing sks 0/4", "learning sks 1/4", "learning sks 2/4", "learned sks 2/4",
    ]  # fmt: skip


def test_a_callback_that_asks_again_and_again_to_stop_ends_learning_once() -> None:
    """It was called once more at the end, and its second KeyboardInterrupt discarded what was learned."""
    [photo] = load_images(Image.new("RGB", (4, 4)))
    request = LearnRequest([Example(photo, ("sks",))], LearnSettings(steps=4), ("sks",))
    lesson = Lesson("sks", [photo], category="mug", captions=["sks"])

    def stop(state: LearningProgress) -> None:
        if state.step:
            raise KeyboardInterrupt

    with learning_progress([lesson], [request], shown=stop) as report, pytest.raises(KeyboardInterrupt):
        report(1, 0.5, 0.01, None)


STOPPED = """
import os, signal
from myvlm import MyVLM
from myvlm.tinyworld import few_shot

vlm, kit = MyVLM.from_pretrained("tinyworld/llava"), few_shot(0, photos=1)

def stop(state):  # as the button of a notebook does
    if state.step == 2 and state.ended is None:
        os.kill(os.getpid(), signal.SIGINT)

photos, captions = kit.photos(), kit.captions()
settings = {"views": 1}
concept = vlm.learn(
    kit.identifier, photos, category="mug", captions=captions, settings=settings, progress=stop
)
print(concept.embeddings["tinyworld/llava"].figures["interrupted"], kit.identifier in vlm.concepts)
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # jupyter_client warns about its own future versions
def test_the_stop_button_of_a_notebook_keeps_the_best_so_far() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(STOPPED)])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    said = [one.text for one in notebook.cells[0].outputs if one.get("name") == "stdout"]
    assert said == ["True True\n"]
