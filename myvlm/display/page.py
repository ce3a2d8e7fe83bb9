"""Pieces of HTML for notebooks: tables, pictures with captions, grids. All text is escaped.

The HTML needs no script or style sheet and inherits the notebook's colours, light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from PIL import Image

from myvlm.display.pictures import SHOWN, SMALL, Mark, colour, data_url, marked
from myvlm.text import find_words


class Markup(str):
    """A string that is already HTML; a notebook renders it."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


Cell: TypeAlias = "str | Markup"


def escaped(text: Cell) -> Markup:
    """The text as HTML; `Markup` is returned unchanged.

    >>> escaped("<b>"), escaped(Markup("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def joined(parts: Iterable[Cell], between: str = "") -> Markup:
    """Join parts of a page; plain text among them is escaped."""
    return Markup(between.join(map(escaped, parts)))


def highlighted(text: str, word: str) -> str:
    """The text as HTML, with all occurrences of the word highlighted.

    >>> highlighted("sks & asks", "sks")
    '<mark>sks</mark> &amp; asks'
    """
    marked_up, end = "", 0
    for start, end_of_word, _ in find_words(text, word):
        marked_up += f"{html.escape(text[end:start])}<mark>{html.escape(text[start:end_of_word])}</mark>"
        end = end_of_word
    return marked_up + html.escape(text[end:])


def emphasised(text: str, words: Mapping[str, int]) -> Markup:
    """The text as HTML, with all occurrences of the words in bold and in the colour of their number.

    >>> emphasised("sks & asks", {"sks": 0})
    '<b style="color:rgb(214,40,90)">sks</b> &amp; asks'
    """
    found = sorted(
        (start, end, number) for word, number in words.items() for start, end, _ in find_words(text, word)
    )
    made, done = "", 0
    for start, end, number in found:
        if start >= done:
            made += html.escape(text[done:start]) + coloured(text[start:end], number)
            done = end
    return Markup(made + html.escape(text[done:]))


def coloured(name: str, number: int) -> Markup:
    """A name as bold HTML in the colour of that number, the same as that of its box."""
    red, green, blue = colour(number)
    return Markup(f'<b style="color:rgb({red},{green},{blue})">{html.escape(name)}</b>')


def picture(image: Image.Image, marks: Sequence[Mark] = (), *, alt: str = "", width: int = 320) -> Markup:
    """An `<img>` of a picture with boxes, shown at most `width` pixels wide."""
    address = data_url(marked(image, marks, at_least=min(SMALL, width), at_most=min(SHOWN, 2 * width)))
    return Markup(f'<img src="{address}" style="max-width:{width}px" alt="{html.escape(alt)}"/>')


def figure(shown: Markup, lines: Sequence[Cell]) -> Markup:
    """A figure with lines of text below it, the first one large and the others small."""
    first, *others = map(escaped, lines)
    small = "".join(f"<br/><small>{line}</small>" for line in others)
    return Markup(f'<figure style="margin:0 0 .5em">{shown}<figcaption>{first}{small}</figcaption></figure>')


def grid(parts: Sequence[Cell], *, of: int | None = None, width: int = 220) -> Markup:
    """Parts side by side, as many per row as fit; if `of` is larger, a note says how many more there are."""
    cells = "".join(f'<div style="width:{width}px">{escaped(part)}</div>' for part in parts)
    more = (of or len(parts)) - len(parts)
    note = f"<p>and {more:,} more</p>" if more > 0 else ""
    return Markup(f'<div style="display:flex;flex-wrap:wrap;gap:12px">{cells}</div>{note}')


def table(rows: Sequence[Sequence[Cell]], *, heads: Sequence[str] = (), first: str = "td") -> Markup:
    """A left-aligned table; `first` is the tag of each row's first cell."""
    made = [_row(heads, "th", "th")] if heads else []
    made += [_row(row, first, "td") for row in rows]
    return Markup(f'<table style="text-align:left">{"".join(made)}</table>')


def _row(cells: Sequence[Cell], first: str, others: str) -> str:
    tags = [first, *[others] * (len(cells) - 1)]
    inside = (
        f'<{tag} style="text-align:left;vertical-align:top">{escaped(cell)}</{tag}>'
        for tag, cell in zip(tags, cells, strict=True)
    )
    return f"<tr>{''.join(inside)}</tr>"
