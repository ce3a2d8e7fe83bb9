"""Setup for notebooks, before other libraries are imported."""

from __future__ import annotations

import sys
import warnings


def import_tqdm_quietly() -> None:
    """Import tqdm without its warning that ipywidgets is missing; its bars are text then, as in a terminal.

    Other libraries import tqdm too, and a notebook would show the warning for each of them.
    """
    if "ipykernel" not in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401
