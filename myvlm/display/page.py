"""Pieces of HTML for notebooks: tables, pictures with captions, grids. Every text that enters is escaped.

What is here needs no script and no style sheet, and takes the notebook's own colours, light or dark.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from PIL import Image

from myvlm.display.pictures import SHOWN, SMALL, Mark, colour, data_url, marked
from myvlm.text import find_words


class Markup(str):
    """Text that is HTML already; a notebook shows it as such."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


Cell: TypeAlias = "str | Markup"


def escaped(text: Cell) -> Markup:
    """The text as HTML; what is HTML already as it is.

    >>> escaped("<b>"), escaped(Markup("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return text if isinstance(text, Markup) else Markup(html.escape(text))


def joined(parts: Iterable[Cell], between: str = "") -> Markup:
    """Parts of a page one behind the other; those that are text are escaped."""
    return Markup(between.join(map(escaped, parts)))


def highlighted(text: str, word: str) -> str:
    """The text as HTML, with the word marked wherever it stands as a word.

    >>> highlighted("sks & asks", "sks")
    '<mark>sks</mark> &amp; asks'
    """
    marked_up, end = "", 0
    for start, end_of_word, _ in find_words(text, word):
        marked_up += f"{html.escape(text[end:start])}<mark>{html.escape(text[start:end_of_word])}</mark>"
        end = end_of_word
    return marked_up + html.escape(text[end:])


def emphasised(text: str, words: Mapping[str, int]) -> Markup:
    """The text with each of the words, where it stands as a word, in bold and in the colour of that number.

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
    """A name in bold, in the colour of that number, as its box is."""
    red, green, blue = colour(number)
    return Markup(f'<b style="color:rgb({red},{green},{blue})">{html.escape(name)}</b>')


def picture(image: Image.Image, marks: Sequence[Mark] = (), *, alt: str = "", width: int = 320) -> Markup:
    """A picture with boxes, at most `width` pixels wide on the screen."""
    address = data_url(marked(image, marks, at_least=min(SMALL, width), at_most=min(SHOWN, 2 * width)))
    return Markup(f'<img src="{address}" style="max-width:{width}px" alt="{html.escape(alt)}"/>')


def figure(shown: Markup, lines: Sequence[Cell]) -> Markup:
    """Something with text below, the first line large and the others small."""
    first, *others = map(escaped, lines)
    small = "".join(f"<br/><small>{line}</small>" for line in others)
    return Markup(f'<figure style="margin:0 0 .5em">{shown}<figcaption>{first}{small}</figcaption></figure>')


def grid(parts: Sequence[Cell], *, of: int | None = None, width: int = 220) -> Markup:
    """Parts side by side, as many in a row as there is room for, and how many more there are."""
    cells = "".join(f'<div style="width:{width}px">{escaped(part)}</div>' for part in parts)
    more = (of or len(parts)) - len(parts)
    note = f"<p>and {more:,} more</p>" if more > 0 else ""
    return Markup(f'<div style="display:flex;flex-wrap:wrap;gap:12px">{cells}</div>{note}')


def table(rows: Sequence[Sequence[Cell]], *, heads: Sequence[str] = (), first: str = "td") -> Markup:
    """Rows of cells, all to the left; `first` is the tag of each row's first cell."""
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
