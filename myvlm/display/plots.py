"""A small plot of a head's scores as SVG, in the text colour of the page."""

from __future__ import annotations

from collections.abc import Sequence

from myvlm.display.page import Markup

LEFT, RIGHT = 20, 300


def scores_plot(scores: Sequence[float], threshold: float, highest_negative: float | None = None) -> Markup:
    """An SVG with a dot per held-out photo, a line at the threshold and a cross at the highest negative.

    >>> scores_plot([5.2, 5.5], 4.5, 0.6).count("<circle")
    2
    """
    others = [] if highest_negative is None else [highest_negative]
    low, high = min([*scores, threshold, *others]), max([*scores, threshold, *others])
    span = (high - low) or 1.0

    def place(score: float) -> float:
        return LEFT + (RIGHT - LEFT) * (score - low) / span

    dots = "".join(
        f'<circle cx="{place(score):.1f}" cy="20" r="4" fill="#1a7f4b" fill-opacity=".7">'
        f"<title>left-out photo: {score:.3g}</title></circle>"
        for score in scores
    )
    line = place(threshold)
    cross = ""
    if highest_negative is not None:
        at = place(highest_negative)
        cross = (
            f'<path d="M{at - 4:.1f} 16l8 8m0 -8l-8 8" stroke="#c0392b" stroke-width="2">'
            f"<title>highest negative: {highest_negative:.3g}</title></path>"
        )
    anchor = "start" if line < 60 else "end" if line > 260 else "middle"
    return Markup(
        '<svg width="320" height="48" role="img" aria-label="scores against the threshold">'
        f'<path d="M{LEFT} 20H{RIGHT}" stroke="currentColor" stroke-opacity=".3"/>'
        f'<path d="M{line:.1f} 8v24" stroke="currentColor" stroke-dasharray="3 2"/>'
        f'<text x="{line:.1f}" y="44" font-size="10" text-anchor="{anchor}" fill="currentColor">'
        f"threshold {threshold:.3g}</text>{cross}{dots}</svg>"
    )
