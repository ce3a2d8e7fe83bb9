"""A process forked while other threads work: nothing deadlocks, and the model is intact."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from myvlm import MyVLM
from myvlm.backbones.causal.attention import record_attention, recording_over
from myvlm.backbones.frozen import SharedChange, frozen
from myvlm.runtime.process import ForkSafeLock
from myvlm.tinyworld import sample_picture

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing can be forked here; run it on Linux"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


def in_child(work: Callable[[], Any]) -> Any:
    """Result of `work` in a forked process within five minutes; later it counts as hanging."""
    context = multiprocessing.get_context("fork")
    made = context.Queue()
    child = context.Process(target=lambda: made.put(work()))
    child.start()
    try:
        return made.get(timeout=300)
    finally:
        child.kill()
        child.join()


def held_elsewhere(lock: Any, work: Callable[[], Any]) -> Any:
    """Result of `work` while another thread holds the lock."""
    inside, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            inside.set()
            done.wait()

    other = threading.Thread(target=hold)
    other.start()
    inside.wait()
    try:
        return work()
    finally:
        done.set()
        other.join()


def test_a_lock_is_free_in_a_child_and_its_own_in_a_copy() -> None:
    lock = ForkSafeLock()

    def taken() -> bool:
        with lock:
            return True

    assert held_elsewhere(lock, lambda: in_child(taken))
    for copied in (copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))):

        def own(copied: Callable[[Any], Any] = copied) -> bool:
            with copied(lock):
                return True

        assert held_elsewhere(lock, own)


def test_what_the_thread_that_forks_holds_it_holds_and_lets_go_of_in_the_child() -> None:
    lock, failed, child = ForkSafeLock(), 1, 0
    try:
        with lock:
            child = os.fork()
        failed = 0
    finally:
        if not child:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_no_lock_of_the_package_is_a_plain_one() -> None:
    """A plain lock that is held during a fork makes the child wait for ever."""
    from tests.test_package import ROOT

    plain = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "myvlm").rglob("*.py")
        if file.name != "process.py" and re.search(r"(?<!ForkSafe)Lock\(\)", file.read_text(encoding="utf-8"))
    ]
    assert plain == []


def test_a_child_has_the_model_as_it_was_before_other_threads_froze_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[0].bias.requires_grad_(False)

    def flags() -> tuple[list[bool], list[bool]]:
        return [part.training for part in model.modules()], [one.requires_grad for one in model.parameters()]

    before = flags()

    def work() -> Any:
        found = [flags()]
        with frozen(model):
            found.append(flags())
        return [*found, flags()]

    off = ([False] * 3, [False] * 2)
    assert held_elsewhere(frozen(model), lambda: in_child(work)) == [before, off, before]
    assert flags() == before
    with frozen(model):
        assert in_child(flags) == off  # the forking thread is itself inside the block


def test_a_thread_that_forks_waits_until_no_other_is_amid_a_change() -> None:
    begun, thing = threading.Event(), SimpleNamespace(first=0, second=0)

    @SharedChange
    @contextmanager
    def changed(one: Any) -> Iterator[None]:
        one.first = 1
        begun.set()
        time.sleep(0.3)
        one.second = 1
        yield
        one.first = one.second = 0

    def both() -> tuple[int, int]:
        return thing.first, thing.second

    assert held_elsewhere(changed(thing), lambda: in_child(both)) == (0, 0)
    assert both() == (0, 0)
    done = threading.Event()

    def change() -> None:
        with changed(thing):
            done.wait(300)

    begun.clear()
    other = threading.Thread(target=change)
    other.start()
    assert begun.wait(300)
    found = in_child(both)
    done.set()
    other.join()
    assert found == (0, 0)


def test_a_child_has_the_attention_as_it_was_before_other_threads_recorded_it() -> None:
    config = SimpleNamespace(_attn_implementation="eager")
    places = torch.zeros(1, 1, dtype=torch.long)

    def implementation() -> str:
        return config._attn_implementation

    def work() -> Any:
        found = [implementation()]
        with record_attention(config, queries=places, keys=places):
            found.append(implementation())
        return [*found, implementation()]

    recording = record_attention(config, queries=places, keys=places)
    assert held_elsewhere(recording, lambda: in_child(work)) == ["eager", recording_over("eager"), "eager"]
    assert implementation() == "eager"
    with record_attention(config, queries=places, keys=places):
        # the forking thread is itself inside the block
        assert in_child(implementation) == recording_over("eager")


def test_a_child_speaks_while_threads_of_its_parent_do(vlm: MyVLM) -> None:
    picture = sample_picture(0)
    expected = vlm.caption(picture, max_new_tokens=3).text
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            vlm.caption(picture, max_new_tokens=3)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        torch.set_num_threads(1)
        for _ in range(3):
            assert in_child(lambda: vlm.caption(picture, max_new_tokens=3).text) == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()
