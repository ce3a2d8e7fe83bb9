"""`myvlm app` as a command: its messages if it cannot start."""

from __future__ import annotations

import sys

import pytest

from tests.support.command import Myvlm


def test_without_gradio_it_is_said_what_to_install(myvlm: Myvlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    run = myvlm("app", "--no-browser")
    assert run.code == 2
    assert 'pip install "myvlm[app]"' in run.stderr
