"""Check the parts of error messages."""

from __future__ import annotations

from myvlm.errors import MyVLMError


def check_said(error: MyVLMError) -> None:
    """Fail unless an error says what was got, what was expected and how to fix it."""
    for said in (error.what, error.got, error.expected, error.fix):
        assert said is not None, str(error)
        assert str(said).strip(), str(error)
