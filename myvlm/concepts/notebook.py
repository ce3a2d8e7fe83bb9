"""HTML and text for notebooks: a concept as a card with photos and scores, a library as a table."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from PIL import Image

from myvlm.boxes import Box
from myvlm.concepts.disk.storage import PHOTOS
from myvlm.display.page import Cell, Markup, grid, joined, picture, table
from myvlm.display.pictures import Mark
from myvlm.display.plots import scores_plot
from myvlm.errors import MyVLMError, NotFittedError
from myvlm.heads.base import Head, HeadMeta
from myvlm.images import load_images

MOST_ROWS = 50
"""The most concepts that the table of a library shows."""
MOST_COMPARED = 200
"""The largest library, in concepts, for which a card lists the confusable ones."""
MOST_CAPTIONS = 3
MOST_PHOTOS = 8

Thumbnail: TypeAlias = tuple[Image.Image, Box | None]
"""A small copy of a photo, and the concept's box in pixels of the copy, if known."""


class DisplayedConcept(Protocol):
    """The attributes of a `Concept` that are shown; `concept` imports this file."""

    identifier: str
    spoken: str
    category: str
    kind: str
    head: Head
    embeddings: dict[str, Any]
    recipe: dict[str, Any]
    folder: Path | None

    thumbnails: list[Thumbnail]

    @property
    def description(self) -> str | None: ...


class Pair(Protocol):
    """The attributes of a `ConfusablePair` that a card shows; this file may not import `confusable`."""

    @property
    def seen(self) -> str: ...
    @property
    def photos_of(self) -> str: ...
    @property
    def probability(self) -> float: ...


class HoldingLibrary(Protocol):
    """The part of a library that a concept's card uses: membership, and confusable concepts."""

    def __len__(self) -> int: ...
    def __contains__(self, identifier: object) -> bool: ...
    def get(self, identifier: str, /) -> object: ...
    def confusable(self) -> Sequence[Pair]: ...


def concept_html(concept: DisplayedConcept, library: HoldingLibrary | None) -> str:
    """Return a card: photos, category, training data, models, scores of the head and confusable concepts.

    Args:
        concept: the concept to show.
        library: a library that holds it, whose confusable concepts are listed; None if there is none.
    """
    head = _meta(concept)
    renamed = "" if concept.spoken == concept.identifier else f" (models use {concept.spoken})"
    rows: list[tuple[Cell, Cell]] = [
        ("concept", f"{concept.identifier}{renamed}"),
        ("category", f"{concept.category} ({concept.kind})"),
        ("learned from", _learned_from(concept)),
        ("learned for", _learned_for(concept)),
    ]
    if concept.description:
        rows.append(("description", concept.description))
    if head is not None:
        rows.append(("recognized by", f"{head.encoder}, threshold {head.threshold:.3g}"))
    if scores := _scores(head):
        rows.append(("scores", scores))
    if confused := _confused(concept, library):
        rows.append(("confusable with", confused))
    rows.append(("folder", str(concept.folder or "not saved")))
    return joined([_photos(concept), table(rows, first="th")])


def library_text(identifiers: Collection[str]) -> str:
    """Return the first identifiers, and how many more there are.

    >>> library_text([]), library_text(["sks", "Anna"])
    ('empty', 'sks, Anna')
    """
    more = len(identifiers) - MOST_ROWS
    named = ", ".join(islice(identifiers, MOST_ROWS)) or "empty"
    return f"{named}, … {more:,} more" if more > 0 else named


def library_html(concepts: Iterable[DisplayedConcept]) -> str:
    """Return a table with one row per concept."""
    known = list(concepts)
    if not known:
        return "<p>No concepts yet.</p>"
    rows = [
        [
            one.identifier,
            one.category,
            one.kind,
            "; ".join(one.embeddings) or "no model yet",
            str(one.folder or "not saved"),
        ]
        for one in known[:MOST_ROWS]
    ]
    more = len(known) - MOST_ROWS
    note = Markup(f"<p>and {more:,} more</p>") if more > 0 else ""
    return joined([table(rows, heads=["concept", "category", "kind", "learned for", "folder"]), note])


def _photos(concept: DisplayedConcept) -> Cell:
    """Return the training photos with the boxes in which the head found the concept."""
    kept = concept.thumbnails or (_photos_in(concept.folder / PHOTOS) if concept.folder else [])
    shown = [
        picture(image, [Mark(box)] if box else (), alt=concept.identifier, width=140)
        for image, box in kept[:MOST_PHOTOS]
    ]
    return grid(shown, of=len(kept), width=140) if shown else ""


def _photos_in(folder: Path) -> list[Thumbnail]:
    """Load the photos saved in a concept folder; none if the folder is missing or unreadable."""
    try:
        return [(one.image, None) for one in load_images(folder)] if folder.is_dir() else []
    except MyVLMError:
        return []


def _meta(concept: DisplayedConcept) -> HeadMeta | None:
    """Return the metadata of the concept's head; None before it is fitted."""
    try:
        return concept.head.state()[0]
    except NotFittedError:
        return None


def _confused(concept: DisplayedConcept, library: HoldingLibrary | None) -> str:
    """List the concepts of its library that are confusable with it, with the highest probability of each."""
    if library is None or concept.identifier not in library or len(library) > MOST_COMPARED:
        return ""
    likely: dict[str, float] = {}
    for pair in library.confusable():
        if concept.identifier in (pair.seen, pair.photos_of):
            other = pair.photos_of if pair.seen == concept.identifier else pair.seen
            likely[other] = max(likely.get(other, 0.0), pair.probability)
    return ", ".join(f"{other} ({share:.0%})" for other, share in likely.items())


def _learned_from(concept: DisplayedConcept) -> Cell:
    captions = [text for own in concept.recipe.get("captions", []) for text in own]
    photos = concept.recipe.get("photos", [])
    count = len(photos) if isinstance(photos, list) else photos  # older recipes hold their number
    lines = [f"{count} photo{'s' * (count != 1)}" if count else "the photos of its head"]
    if captions:
        model = concept.recipe.get("captions_by") == "model"
        by = "captions generated by the model" if model else "captions"
        more = f" … ({len(captions)})" if len(captions) > MOST_CAPTIONS else ""
        lines.append(f"{by}: " + " / ".join(captions[:MOST_CAPTIONS]) + more)
    if questions := sum(len(own) for own in concept.recipe.get("questions", [])):
        lines.append(f"{questions} question/answer pairs")
    return joined(lines, "<br/>")


def _learned_for(concept: DisplayedConcept) -> Cell:
    lines = [_line(name, one.figures) for name, one in concept.embeddings.items()]
    return joined(lines or ["no model yet"], "<br/>")


def _line(backbone: str, figures: dict[str, Any]) -> str:
    """Return a backbone's name with the final figures of learning for it."""
    details = []
    if isinstance(steps := figures.get("steps"), int):
        details.append(f"{steps} steps")
    if isinstance(loss := figures.get("cross_entropy"), float):
        details.append(f"loss {loss:.2f}")
    if isinstance(said := figures.get("said"), float):
        details.append(f"named in {said:.0%} of held-out captions")
    if figures.get("interrupted"):
        details.append("stopped early")
    return f"{backbone}: {', '.join(details)}" if details else backbone


def _scores(meta: HeadMeta | None) -> Cell:
    """Plot the head's scores of held-out training photos against its threshold, if it measured them."""
    figures: dict[str, Any] = dict(meta.figures) if meta else {}
    scores = figures.get("left_out_scores")
    if meta is None or not scores:
        return ""
    negative = figures.get("highest_negative_score")
    found = sum(score >= meta.threshold for score in scores)
    words = f"{found} of {len(scores)} photos recognized when left out (dots right of the line)"
    if negative is not None:
        words += "; the cross is the highest score of a negative"
    plot = scores_plot(scores, meta.threshold, negative)
    return joined([plot, Markup("<br/><small>"), words, Markup("</small>")])
