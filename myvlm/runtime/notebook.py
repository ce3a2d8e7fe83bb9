"""What a notebook needs of the process before others' libraries are imported."""

from __future__ import annotations

import sys
import warnings


def without_advice_on_widgets() -> None:
    """Import tqdm without its warning that ipywidgets is missing; its bars are text then, as elsewhere.

    Others import it as soon as they are imported, and a notebook would show the warning for each.
    """
    if "ipykernel" not in sys.modules:
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import tqdm.auto  # noqa: F401
