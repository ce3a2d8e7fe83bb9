"""What every error that a user meets must say."""

from __future__ import annotations

from myvlm.errors import MyVLMError


def check_said(error: MyVLMError) -> None:
    """Fail unless an error says what was got, what was expected, and what to do about it."""
    for said in (error.what, error.got, error.expected, error.fix):
        assert said is not None, str(error)
        assert str(said).strip(), str(error)
