"""Run a list of checks on a case: all at once, or each as a pytest test."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar
from unittest import SkipTest

Case = TypeVar("Case")


@dataclass(frozen=True)
class Outcome:
    """The result of a check that did not fail: passed, or skipped for a reason."""

    check: str
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the check ran."""
        return self.skipped is None


def raised(kind: type[Exception], use: Callable[[], object], what: str) -> Exception:
    """Return the error of class `kind` that `use` raises.

    Raises:
        AssertionError: none is raised; the message begins with `what`.

    >>> raised(ZeroDivisionError, lambda: 1 / 0, "a division")
    ZeroDivisionError('division by zero')
    """
    try:
        use()
    except kind as error:
        return error
    raise AssertionError(f"{what}: no {kind.__name__} was raised")


def run_checks(
    checks: Sequence[Callable[[Case], None]], case: Case, *, may_skip: Collection[str] = ()
) -> list[Outcome]:
    """Run each check on one case, whether or not others fail.

    Args:
        checks: functions of a case; each raises `unittest.SkipTest` if it has nothing to check.
        case: what they are called with.
        may_skip: accepted reasons; a check that is skipped for any other fails.

    Raises:
        AssertionError: checks failed; the message has a line for each, starting with the check's name.

    >>> def is_even(number): assert number % 2 == 0, f"{number} is odd"
    >>> def is_small(number): assert number < 3, f"{number} is large"
    >>> run_checks([is_even, is_small], 2)
    [Outcome(check='is_even', skipped=None), Outcome(check='is_small', skipped=None)]
    >>> run_checks([is_even, is_small], 5)
    Traceback (most recent call last):
    AssertionError: is_even: AssertionError: 5 is odd
    is_small: AssertionError: 5 is large
    """
    outcomes: list[Outcome] = []
    failures: list[tuple[str, Exception]] = []
    for check in checks:
        try:
            outcomes.append(_run(check, case, may_skip))
        except Exception as error:
            failures.append((check.__name__, error))
    if failures:
        lines = [f"{name}: {type(error).__name__}: {error}" for name, error in failures]
        causes = ExceptionGroup("errors of the checks", [error for _, error in failures])
        raise AssertionError("\n".join(lines)) from causes
    return outcomes


def parametrize_with_checks(
    checks: Sequence[Callable[[Case], None]], cases: Mapping[str, Callable[[], Case]]
) -> Any:
    """Decorator that runs a pytest test, which takes `check`, once for every check of every case.

    Args:
        checks: `BACKBONE_CHECKS`, `HEAD_CHECKS`, or some of them.
        cases: by name, functions that return a `BackboneCase` or `HeadCase`; each is called once, when its
            first check runs.

    >>> from myvlm.testing import HEAD_CHECKS
    >>> @parametrize_with_checks(HEAD_CHECKS, {"mine": lambda: HeadCase(...)})  # doctest: +SKIP
    ... def test_my_head(check):
    ...     check()
    """
    import pytest

    made = {name: cache(make) for name, make in cases.items()}
    items = [
        pytest.param(partial(_as_test, check, make), id=f"{name}-{check.__name__}")
        for name, make in made.items()
        for check in checks
    ]
    return pytest.mark.parametrize("check", items)


def _as_test(check: Callable[[Any], None], make: Callable[[], Any]) -> None:
    import pytest

    case = make()
    outcome = _run(check, case, case.lacks.values())
    if outcome.skipped is not None:
        pytest.skip(outcome.skipped)


def _run(check: Callable[[Case], None], case: Case, may_skip: Collection[str]) -> Outcome:
    try:
        check(case)
    except SkipTest as reason:
        if str(reason) not in may_skip:
            raise AssertionError(f"skipped for an undeclared reason: {reason}") from None
        return Outcome(check.__name__, str(reason))
    return Outcome(check.__name__)
