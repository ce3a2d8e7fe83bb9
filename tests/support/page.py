"""Actions of a user on the page of `myvlm app`, in a real browser."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from myvlm import Concept

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
LEARNING = 300_000
"""Milliseconds."""
playwright.expect.set_options(timeout=60_000)  # for busy machines


def shot(page: Any, name: str, folder: Path) -> None:
    kept = Path(os.environ.get("MYVLM_SCREENSHOTS") or folder)
    kept.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=kept / f"{name}.png", full_page=True)


def drop(page: Any, where: str, some: list[Path]) -> None:
    if page.locator(f"#{where} button[aria-label='Clear']").count():
        page.locator(f"#{where} button[aria-label='Clear']").click()
    page.locator(f"#{where} input[type=file]").set_input_files(some)
    playwright.expect(page.locator(f"#{where}")).to_contain_text(some[-1].stem)


def write(page: Any, where: str, text: str) -> None:
    page.locator(f"#{where} textarea, #{where} input").first.fill(text)


def corrections(folder: Path) -> int:
    """The number of corrections in the concept's folder."""
    meta, _ = Concept.load(folder).head.state()
    found = meta.figures.get("corrections", 0)
    assert isinstance(found, int)
    return found


def choose(page: Any, name: str, where: str = "chosen") -> None:
    page.locator(f"#{where} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def says(page: Any, where: str, text: str, wait: int = 60_000) -> None:
    playwright.expect(page.locator(f"#{where}")).to_contain_text(text, timeout=wait)
