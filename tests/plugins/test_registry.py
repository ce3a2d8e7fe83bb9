"""The registry: duplicate, unknown and misspelled names, and broken packages."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from threading import Event
from typing import Any

import pytest

from myvlm.errors import InputError, NameTakenError, UnknownNameError
from myvlm.plugins.registry import Registry, SharedRegistry

GROUP = "myvlm.drinks"


class Tea:
    """A class at module level."""


def registry_of(points: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    monkeypatch.setattr("myvlm.plugins.registry.entry_points", lambda group: points if group == GROUP else [])
    return Registry("drink", add="call register_drink", group=GROUP)


def test_a_name_is_one_things_until_it_is_said_that_another_takes_its_place() -> None:
    drinks: Registry[object] = Registry("drink", add="call register_drink")
    drinks.register("tea", Tea)
    drinks.register("tea", Tea)
    again = type("Tea", (), {"__module__": __name__})  # as if the module were executed again
    drinks.register("tea", again)
    assert drinks.get("tea") is again
    with pytest.raises(NameTakenError, match=r"drink 'tea' is taken(.|\n)*Tea"):
        drinks.register("tea", object())
    other = object()
    drinks.register("tea", other, replace=True)
    assert drinks.get("tea") is other


def test_two_lambdas_of_one_place_are_two_things() -> None:
    drinks: Registry[object] = Registry("drink", add="call register_drink")
    one, other = (lambda: None for _ in range(2))
    drinks.register("tea", one)
    with pytest.raises(NameTakenError):
        drinks.register("tea", other)


def test_an_unknown_name_lists_the_known_and_what_is_spelled_nearly_so() -> None:
    drinks: Registry[int] = Registry("drink", add="call register_drink", forms="beer@brand")
    for number, name in enumerate(("coffee", "milk")):
        drinks.register(name, number)
    with pytest.raises(UnknownNameError) as raised:
        drinks.get("cofee")
    assert raised.value.got == "cofee"
    assert raised.value.expected == "one of coffee, milk; or beer@brand"
    assert raised.value.fix == "write coffee; or call register_drink"
    assert isinstance(raised.value, InputError)
    assert isinstance(raised.value, LookupError)
    with pytest.raises(UnknownNameError, match="check the spelling, or call register_drink"):
        drinks.get("whisky")


def test_a_thing_is_registered_under_its_own_name() -> None:
    drinks: Registry[type] = Registry("drink", add="", name_of=lambda thing: getattr(thing, "kind", None))
    with pytest.raises(InputError, match=r"'tea' for .*Tea, whose own name is None"):
        drinks.register("tea", Tea)
    assert drinks.names() == []


def test_packages_are_loaded_when_asked_for_and_broken_ones_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = EntryPoint("tea", f"{__name__}:Tea", GROUP)
    drinks = registry_of([EntryPoint("rum", "no_such_module:Rum", GROUP), good], monkeypatch)
    assert drinks.names() == ["rum", "tea"]
    assert drinks.registered == {}
    assert drinks.get("tea") is Tea
    assert drinks.broken == {}, "only what was asked for is loaded"
    with caplog.at_level(logging.WARNING):
        assert drinks.all() == {"tea": Tea}
        assert drinks.all() == {"tea": Tea}
    assert len(caplog.records) == 1
    with pytest.raises(UnknownNameError, match=r"'rum' cannot be loaded(.|\n)*no_such_module"):
        drinks.get("rum")
    with pytest.raises(UnknownNameError, match=r"one of tea; rum cannot be loaded \(ModuleNotFoundError"):
        drinks.get("wine")


def test_a_thread_waits_for_a_package_that_another_is_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, going_on = Event(), Event()

    class Slow(EntryPoint):
        def load(self) -> Any:
            begun.set()
            assert going_on.wait(60)
            return super().load()

    drinks = registry_of([Slow("tea", f"{__name__}:Tea", GROUP)], monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(drinks.get, "tea")
        assert begun.wait(60)
        second = pool.submit(drinks.get, "tea")
        with pytest.raises(TimeoutError):
            second.exception(timeout=0.2)
        going_on.set()
        assert first.result() is second.result() is Tea


def test_a_package_does_not_take_a_name_that_is_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drinks = registry_of([EntryPoint("tea", f"{__name__}:Tea", GROUP)], monkeypatch)
    ours = object()
    drinks.register("tea", ours)
    assert drinks.get("tea") is ours
    with caplog.at_level(logging.WARNING):
        assert drinks.all() == {"tea": ours}
    assert "'tea' is taken" in caplog.text


def test_what_is_built_in_is_there_before_anything_from_outside() -> None:
    from myvlm.evaluation.methods.registry import methods

    fresh: Registry[object] = Registry("backbone", add="", built_in=("json",))
    with methods.restored(), pytest.raises(NameTakenError):
        methods.register("plain", lambda setting: NotImplemented)  # type: ignore[arg-type, return-value]
    fresh.register("mine", object())
    assert fresh.names() == ["mine"]


def test_one_thing_is_made_for_each_name_and_device_and_anew_when_replaced() -> None:
    makers: SharedRegistry[list[str]] = SharedRegistry("maker", add="")
    makers.register("list", lambda device: [device])
    made = makers.shared("list", "cpu")
    assert makers.shared("list", "cpu") is made
    assert makers.shared("list", "cuda") == ["cuda"]
    makers.register("list", lambda device: [device, "new"], replace=True)
    assert makers.shared("list", "cpu") == ["cpu", "new"]


def test_what_is_registered_inside_is_forgotten() -> None:
    drinks: Registry[int] = Registry("drink", add="")
    with drinks.restored():
        drinks.register("tea", 1)
    assert drinks.names() == []
