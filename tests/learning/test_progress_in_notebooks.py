"""Messages of a kernel during learning, for kernels started as JupyterLab, VS Code and Colab start them.

None of the three programs runs here. Their kernels do, with the environment variables that the programs set;
for Colab also with a shell and a kernel under Colab's names. All three programs display these messages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from myvlm.learning.progress import NOTEBOOK_PAUSE

LEARN = """
import sys, time
sys.modules["ipywidgets"] = None  # as where it is not installed
from PIL import Image
from myvlm.images import load_images
from myvlm.learning import LearnRequest, LearnSettings
from myvlm.learning.dataset import Example, Lesson
from myvlm.learning.progress import learning_progress

[photo] = load_images(Image.new("RGB", (4, 4)))
lesson = Lesson("sks", [photo], category="mug")
request = LearnRequest([Example(photo, ("sks here",))], LearnSettings(steps=40), ("sks",))
print(get_ipython().__class__.__module__)
with learning_progress([lesson], [request], shown=True) as report:
    for step in range(1, 41):
        time.sleep(0.02)
        report(step, 0.5, 0.01, 0.75)
"""

COLAB = {
    "google/colab/__init__.py": "",
    "google/colab/_shell.py": "from ipykernel.zmqshell import ZMQInteractiveShell\n"
    "class Shell(ZMQInteractiveShell): pass\n",
    "google/colab/_kernel.py": "from ipykernel.ipkernel import IPythonKernel\n"
    "from google.colab._shell import Shell\n"
    "class Kernel(IPythonKernel):\n    shell_class = Shell\n",
}
"""Files named like Colab's own."""

PROGRAMS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "jupyterlab": ({"JPY_SESSION_NAME": "album.ipynb"}, [], "ipykernel.zmqshell"),
    "vscode": (
        {"VSCODE_PID": "4711", "VSCODE_CWD": "/", "VSCODE_NLS_CONFIG": "{}", "PYTHONUNBUFFERED": "1"},
        [],
        "ipykernel.zmqshell",
    ),
    "colab": (
        {"COLAB_RELEASE_TAG": "release-colab", "COLAB_GPU": "", "CLICOLOR": "1", "PAGER": "cat"},
        ["--IPKernelApp.kernel_class=google.colab._kernel.Kernel"],
        "google.colab._shell",
    ),
}
"""For each program: its environment variables, how it starts the kernel, and the module of the shell."""


def messages(code: str, variables: Mapping[str, str], options: list[str]) -> list[dict[str, Any]]:
    """All messages that a kernel publishes while it runs the code."""
    manager: Any = KernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
    )
    manager.start_kernel(env={**os.environ, **variables})
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=600)
        client.execute(code)
        published: list[dict[str, Any]] = []
        while not published or published[-1]["content"].get("execution_state") != "idle":
            published.append(client.get_iopub_msg(timeout=600))
    except Empty:
        raise AssertionError("the kernel fell silent") from None
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return published


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # jupyter_client warns about its own future versions
@pytest.mark.parametrize("program", PROGRAMS)
def test_one_output_is_drawn_anew_and_no_widget_is_asked_for(program: str, tmp_path: Path) -> None:
    variables, options, shell = PROGRAMS[program]
    for name, text in COLAB.items():
        (file := tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    published = messages(LEARN, {**variables, "PYTHONPATH": found}, options)
    printed = [one["content"]["text"] for one in published if one["msg_type"] == "stream"]
    assert printed == [f"{shell}\n"], "nothing else, and no traceback"
    drawn = [one for one in published if one["msg_type"] not in ("status", "execute_input", "stream")]
    assert drawn[0]["msg_type"] == "display_data"
    assert {one["msg_type"] for one in drawn[1:]} == {"update_display_data"}, "no comm, no clear_output"
    took = (drawn[-1]["header"]["date"] - drawn[0]["header"]["date"]).total_seconds()
    assert 3 <= len(drawn) <= 3 + took / NOTEBOOK_PAUSE, "the first, the last, and four a second"
    [place] = {one["content"]["transient"]["display_id"] for one in drawn}
    assert place
    for one in drawn:
        assert set(one["content"]["data"]) == {"text/html", "text/plain"}
        assert "<progress" in one["content"]["data"]["text/html"]
        assert "<script" not in one["content"]["data"]["text/html"]
    first, last = (drawn[number]["content"]["data"]["text/plain"] for number in (0, -1))
    assert "preparing sks 0/40" in first
    assert "learned sks 40/40 · loss 0.500" in last
    assert any(" left" in one["content"]["data"]["text/plain"] for one in drawn[1:-1])
