"""Render an evaluation as one self-contained HTML page, with inline styles and pictures.

Every inserted text goes through `html.escape`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from string import Template

from PIL import Image

from myvlm.display.page import highlighted
from myvlm.display.pictures import data_url
from myvlm.evaluation.data.outcome import MarkedPicture
from myvlm.evaluation.metrics.figures import MEANINGS
from myvlm.evaluation.metrics.intervals import Estimate
from myvlm.evaluation.report.summary import Evaluation, used_metrics
from myvlm.evaluation.report.tables import Table, TableRow
from myvlm.text import contains_word

SMALLEST_SIDE = 192


def page(evaluation: Evaluation) -> str:
    """The complete HTML page."""
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"{evaluation.backbone} on {evaluation.data}"),
        heading=html.escape(evaluation.heading),
        tables=_join(map(_table, evaluation.tables)),
        examples=_examples(evaluation),
        meanings=_join(
            f"<dt><code>{name}</code></dt><dd>{html.escape(MEANINGS[name])}</dd>"
            for name in used_metrics(evaluation)
        ),
        notes=_join(f'<p class="soft">{html.escape(note)}</p>' for note in evaluation.notes),
    )


def _table(table: Table) -> str:
    head = _join(f'<th scope="col">{html.escape(name)}</th>' for name in (table.first, *table.columns))
    rows = _join(_row(row, table.columns) for row in table.rows)
    return (
        f"<section><h2>{html.escape(table.title)}</h2>"
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _row(row: TableRow, columns: Iterable[str]) -> str:
    cells = _join(_cell(row.figures.get(name)) for name in columns)
    return f"<tr><td>{html.escape(row.label)}</td>{cells}</tr>"


def _cell(one: Estimate | None) -> str:
    if one is None:
        return "<td>–</td>"
    mean, space, interval = str(one).partition(" ")
    return f"<td>{mean}{f'<small>{interval}</small>' if space else ''}</td>"


def _examples(evaluation: Evaluation) -> str:
    if not evaluation.shown:
        return ""
    identifiers = {subject.name: subject.identifier for subject in evaluation.dataset.subjects}
    cards = [(identifiers[name], one) for name, one in evaluation.shown]
    cards.sort(key=lambda card: _is_correct(*card))  # failures before successes
    return (
        "<section><h2>Failures and successes</h2>"
        '<p class="soft">Left: the picture with the head’s box. Right: the model’s '
        "attention as it generates the name, if it does. Failures come first.</p>"
        f'<div class="grid">{_join(_card(evaluation.pictures, *card) for card in cards)}</div></section>'
    )


def _is_correct(identifier: str, one: MarkedPicture) -> bool:
    return contains_word(one.text, identifier) == one.wanted


def _card(folder: Path, identifier: str, one: MarkedPicture) -> str:
    right = _is_correct(identifier, one)
    verdict = (
        ("named where it is" if one.wanted else "not named where it is not")
        if right
        else ("not named, though it is here" if one.wanted else "named, though it is not here")
    )
    pictures = _picture(folder / one.picture, f"picture {'with' if one.wanted else 'without'} {identifier}")
    if one.overlay:
        pictures += _picture(folder / one.overlay, f"attention of the model as it generates {identifier}")
    return (
        f'<article class="card{"" if right else " wrong"}"><div class="pair">{pictures}</div>'
        f"<dl><dt>plain</dt><dd>{highlighted(one.plain, identifier)}</dd>"
        f"<dt>with {html.escape(identifier)}</dt><dd>{highlighted(one.text, identifier)}</dd></dl>"
        f'<p class="verdict">{html.escape(identifier)}: {verdict}</p></article>'
    )


def _picture(file: Path, alt: str) -> str:
    with Image.open(file) as image:
        return f'<img src="{data_url(image, at_least=SMALLEST_SIDE)}" alt="{html.escape(alt)}">'


def _join(parts: Iterable[str]) -> str:
    return "\n".join(parts)
