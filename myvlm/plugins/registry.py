"""A registry of objects by name: built in, registered in code, or provided by installed packages.

Heads, encoders, backbones, evaluation methods and collections of models each have one `Registry`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from myvlm.errors import InputError, NameTakenError, UnknownNameError, first_line
from myvlm.runtime.process import ForkSafeLock

_log = logging.getLogger(__name__)

Thing = TypeVar("Thing")
Made = TypeVar("Made")


class Registry(Generic[Thing]):
    """Registered objects of one kind, by name.

    Args:
        what: what one object is called, such as "head".
        add: how to register another one, for messages.
        built_in: modules of this package that register objects when they are imported. They are imported
            when a name is first looked up, and before any outside object is registered.
        group: entry-point group under which installed packages provide objects; each is loaded on demand.
        forms: names that need no registration, for messages; see `unregistered`.
        name_of: returns the name that an object declares itself, or None.
        check: raises an error for an object that cannot be registered.
        unknown: type of the error for an unknown name.
        replaceable: whether users can pass `replace`, for messages.

    Attributes:
        registered: name → object, as far as loaded.
        broken: name of an entry point → the error with which it failed to load.

    >>> drinks = Registry[int]("drink", add="call drinks.register")
    >>> drinks.register("coffee", 1)
    >>> drinks.get("coffee")
    1
    >>> drinks.get("cofee")
    Traceback (most recent call last):
    myvlm.errors.UnknownNameError: There is no drink 'cofee'.
      got:      cofee
      expected: one of coffee
      fix:      write coffee; or call drinks.register
    """

    def __init__(
        self,
        what: str,
        *,
        add: str,
        built_in: Sequence[str] = (),
        group: str | None = None,
        forms: str = "",
        name_of: Callable[[Thing], str | None] | None = None,
        check: Callable[[Thing], None] | None = None,
        unknown: type[UnknownNameError] = UnknownNameError,
        replaceable: bool = False,
    ) -> None:
        self.what = what
        self.registered: dict[str, Thing] = {}
        self.broken: dict[str, Exception] = {}
        self._loaded: set[tuple[str, str]] = set()
        self._loading = ForkSafeLock()
        self._add, self._forms = add, forms
        self._built_in, self._group = tuple(built_in), group
        self._name_of, self._check, self._unknown = name_of, check, unknown
        self._instead = "pass replace=True" if replaceable else "uninstall one of the two packages"

    def register(self, name: str, thing: Thing, *, replace: bool = False) -> None:
        """Register an object. Registering it again, or a class whose module was run again, is allowed.

        Args:
            name: its name; must equal the name that the object declares itself, if any.
            thing: the object that `get` returns.
            replace: whether to replace another object of that name.

        Raises:
            InputError: the name differs from the one that the object declares, or the object is not valid.
            NameTakenError: another object has the name, and `replace` is not set.
        """
        if getattr(thing, "__module__", None) not in self._built_in:
            self.load_built_in()
        if self._check:
            self._check(thing)
        own = self._name_of(thing) if self._name_of else name
        if own != name:
            raise InputError(
                f"A {self.what} must be registered under its own name.",
                got=f"{name!r} for {_qualified_name(thing)}, whose own name is {own!r}",
                expected="equal names",
                fix="change one of the two names",
            )
        there = self.registered.get(name)
        if not (replace or there is None or _same_definition(there, thing)):
            raise self.taken(name, _qualified_name(thing), _qualified_name(there))
        self.registered[name] = thing

    def get(self, name: str) -> Thing:
        """The object registered under that name; its module is imported first if necessary.

        Raises:
            UnknownNameError: there is none, or the package that provides it cannot be loaded.
        """
        if name not in self.registered:
            self.load_built_in()
        if name not in self.registered:
            thing = self.unregistered(name)
            if thing is not None:
                return thing
            for point in self._points():
                if point.name == name:
                    self._load(point)
        if name not in self.registered:
            raise self.unknown(name)
        return self.registered[name]

    def unregistered(self, name: str) -> Thing | None:
        """The object for a name that follows a rule and needs no registration; for subclasses to override."""
        return None

    def names(self) -> list[str]:
        """All names: built in, registered, and of installed packages, which are not loaded."""
        self.load_built_in()
        return list(dict.fromkeys([*self.registered, *(point.name for point in self._points())]))

    def all(self) -> dict[str, Thing]:
        """All objects that can be loaded, by name; failures are logged once."""
        self.load_built_in()
        for point in self._points():
            self._load(point)
        return dict(self.registered)

    def load_built_in(self) -> None:
        """Import the modules that register the built-in objects."""
        for module in self._built_in:
            import_module(module)

    def unknown(self, name: str) -> UnknownNameError:
        """The error for an unknown name, with the known names and those spelled similarly."""
        if name in self.broken:
            return self._unknown(
                f"The {self.what} {name!r} cannot be loaded.",
                got=_reason(self.broken[name]),
                expected=f"a {self.what}, under the entry point {self._group}",
                fix="repair or remove the package that provides it",
            )
        known = [one for one in self.names() if one not in self.broken]
        near = get_close_matches(name, known, n=3)
        one_of = f"one of {', '.join(known)}" if known else ""
        return self._unknown(
            f"There is no {self.what} {name!r}.",
            got=name,
            expected="; or ".join(filter(None, (one_of, self._forms))) + self.broken_note(),
            fix=f"write {' or '.join(near)}; or {self._add}"
            if near
            else f"check the spelling, or {self._add}",
        )

    def taken(self, name: str, got: str, by: str) -> NameTakenError:
        """The error for a name that another object has."""
        return NameTakenError(
            f"The {self.what} {name!r} is taken.",
            got=got,
            expected=f"an unused name: {name!r} belongs to {by}",
            fix=f"choose another name, or {self._instead}",
        )

    def broken_note(self) -> str:
        """Lists the entry points that could not be loaded, for messages; empty if there are none."""
        return "".join(f"; {name} cannot be loaded ({_reason(why)})" for name, why in self.broken.items())

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Context manager that undoes registrations and loading on exit, for tests."""
        before = dict(self.registered), dict(self.broken), set(self._loaded)
        try:
            yield
        finally:
            self.registered, self.broken, self._loaded = before

    def _points(self) -> list[EntryPoint]:
        return list(entry_points(group=self._group)) if self._group else []

    def _load(self, point: EntryPoint) -> None:
        """Register the object of an entry point; a failure is recorded and does not stop the others."""
        with self._loading:  # other threads wait until the object is registered
            if (point.name, point.value) in self._loaded:
                return
            self._loaded.add((point.name, point.value))
            try:
                thing = point.load()
                self.register((self._name_of and self._name_of(thing)) or point.name, thing)
            except Exception as error:  # importing another package may raise anything
                self.broken[point.name] = error
                _log.warning(
                    "the %s %r (%s) cannot be loaded: %s", self.what, point.name, point.value, _reason(error)
                )


class SharedRegistry(Registry[Callable[[str], Made]]):
    """A registry of factories that build an object for a device; keeps one object per name and device."""

    def __init__(self, what: str, *, add: str, forms: str = "") -> None:
        super().__init__(what, add=add, forms=forms, replaceable=True)
        self._made: dict[tuple[str, str], Made] = {}
        self._making = ForkSafeLock()

    def register(self, name: str, thing: Callable[[str], Made], *, replace: bool = False) -> None:
        """As `Registry.register`; objects built by a replaced factory are discarded."""
        before = self.registered.get(name)
        super().register(name, thing, replace=replace)
        if before is not thing:
            for key in [key for key in self._made if key[0] == name]:
                self._made.pop(key, None)

    def shared(self, name: str, device: str) -> Made:
        """The shared object of that name on a device such as "cpu". Raises UnknownNameError as `get` does."""
        with self._making:
            if (name, device) not in self._made:
                self._made[name, device] = self.get(name)(device)
            return self._made[name, device]


def _same_definition(one: Any, other: Any) -> bool:
    """Whether both are the same object, or the same class or function of a module that was run twice."""
    places = [(getattr(it, "__module__", None), getattr(it, "__qualname__", "<")) for it in (one, other)]
    return one is other or (places[0] == places[1] and "<" not in places[0][1])


def _qualified_name(thing: Any) -> str:
    name = getattr(thing, "__qualname__", None)
    return f"{thing.__module__}.{name}" if name else repr(thing)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
