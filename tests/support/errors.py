"""What every error that a user meets must say."""

from __future__ import annotations

from myvlm.errors import MyVLMError


def check_said(error: MyVLMError) -> None:
    """Fail unless an error says what was got, what was expected, and what to do about it."""
    assert error.what.strip()
    assert str(error.got).strip()
    assert str(error.expected).strip()
    assert str(error.fix).strip()
