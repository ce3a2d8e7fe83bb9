"""How a concept and a library show themselves in a notebook: small tables, scores by the threshold."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from myvlm.errors import NotFittedError
from myvlm.heads.base import Head, HeadMeta

MOST_ROWS = 50
"""Concepts of a library that a table shows."""
MOST_CAPTIONS = 3


class Shown(Protocol):
    """What a concept shows of itself."""

    identifier: str
    spoken: str
    category: str
    kind: str
    head: Head
    embeddings: dict[str, Any]
    recipe: dict[str, Any]
    folder: Path | None


def concept_html(concept: Shown) -> str:
    """What it is, what it was learned for and from, and how well its head tells it apart."""
    head = _meta(concept)
    renamed = "" if concept.spoken == concept.identifier else f" (models say {concept.spoken})"
    rows = [
        ("concept", f"{concept.identifier}{renamed}"),
        ("is a", f"{concept.category} ({concept.kind})"),
        ("learned for", "; ".join(concept.embeddings) or "no model yet"),
        ("learned from", _learned_from(concept)),
        ("folder", str(concept.folder or "not saved yet")),
    ]
    if head is not None:
        rows.insert(3, ("recognised by", f"{head.encoder}, at a score of {head.threshold:.3g}"))
    body = "".join(_row([name, value], first="th") for name, value in rows)
    plot = _plot_row(concept)
    return f'<table style="text-align:left">{body}{plot}</table>'


def library_html(concepts: Iterable[Shown]) -> str:
    """One row a concept."""
    known = list(concepts)
    if not known:
        return "<p>No concepts yet.</p>"
    head = _row(["concept", "is a", "kind", "learned for", "folder"], cell="th")
    body = "".join(
        _row(
            [
                one.identifier,
                one.category,
                one.kind,
                "; ".join(one.embeddings),
                str(one.folder or "not saved"),
            ]
        )
        for one in known[:MOST_ROWS]
    )
    more = len(known) - MOST_ROWS
    note = f"<p>and {more} more</p>" if more > 0 else ""
    return f'<table style="text-align:left">{head}{body}</table>{note}'


def _meta(concept: Shown) -> HeadMeta | None:
    """What its head says of itself; nothing before it was fitted."""
    try:
        return concept.head.state()[0]
    except NotFittedError:
        return None


def _learned_from(concept: Shown) -> str:
    captions = [text for own in concept.recipe.get("captions", []) for text in own]
    if not captions:
        return "what its head was given"
    by = (
        "captions that the model wrote itself" if concept.recipe.get("captions_by") == "model" else "captions"
    )
    more = f" … ({len(captions)})" if len(captions) > MOST_CAPTIONS else ""
    return f"{by}: " + " / ".join(captions[:MOST_CAPTIONS]) + more


def _row(cells: Sequence[str], *, cell: str = "td", first: str | None = None) -> str:
    tags = [first or cell, *[cell] * (len(cells) - 1)]
    inside = (
        f'<{tag} style="text-align:left;vertical-align:top">{html.escape(text)}</{tag}>'
        for tag, text in zip(tags, cells, strict=True)
    )
    return f"<tr>{''.join(inside)}</tr>"


def _plot_row(concept: Shown) -> str:
    """The head's scores of photos that were left out, against its threshold, where it measured them."""
    meta = _meta(concept)
    figures: dict[str, Any] = dict(meta.figures) if meta else {}
    if meta is None or not figures.get("left_out_scores"):
        return ""
    plot = scores_plot(figures["left_out_scores"], meta.threshold, figures.get("highest_negative_score"))
    return f'<tr><th style="text-align:left;vertical-align:top">scores</th><td>{plot}</td></tr>'


def scores_plot(scores: Sequence[float], threshold: float, highest_negative: float | None = None) -> str:
    """An SVG: a dot for each photo that was left out, a line at the threshold, a cross at the worst negative.

    >>> scores_plot([5.2, 5.5], 4.5, 0.6).count("<circle")
    2
    """
    low, high = min([*scores, threshold, highest_negative or threshold]), max([*scores, threshold])
    span = (high - low) or 1.0

    def place(score: float) -> float:
        return 20 + 280 * (score - low) / span

    dots = "".join(
        f'<circle cx="{place(score):.1f}" cy="20" r="4" fill="#1a7f4b" fill-opacity=".7">'
        f"<title>a photo that was left out: {score:.3g}</title></circle>"
        for score in scores
    )
    line = place(threshold)
    cross = ""
    if highest_negative is not None:
        at = place(highest_negative)
        cross = (
            f'<path d="M{at - 4:.1f} 16l8 8m0 -8l-8 8" stroke="#c0392b" stroke-width="2">'
            f"<title>the highest score of anything else: {highest_negative:.3g}</title></path>"
        )
    return (
        '<svg width="320" height="48" role="img" aria-label="scores against the threshold">'
        '<path d="M20 20h280" stroke="#bbb"/>'
        f'<path d="M{line:.1f} 8v24" stroke="#555" stroke-dasharray="3 2"/>'
        f'<text x="{line:.1f}" y="44" font-size="10" text-anchor="middle" fill="#555">{threshold:.3g}</text>'
        f"{cross}{dots}</svg>"
    )
