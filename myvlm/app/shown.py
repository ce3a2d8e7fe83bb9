"""Render the results of a `Desk` as HTML for the page. All texts are escaped."""

from __future__ import annotations

from collections.abc import Sequence

from myvlm.app.desk import PictureReplies
from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import Correction
from myvlm.concepts.library import ConceptLibrary
from myvlm.display.page import Markup, escaped, figure, joined, picture
from myvlm.errors import MyVLMError


def replies_html(looks: Sequence[PictureReplies]) -> str:
    """Render one row per picture: replies with the concepts and without, and the attention maps."""
    if not looks:
        return "<p>Drop a picture first.</p>"
    return joined(map(_replies_section, looks))


def _replies_section(one: PictureReplies) -> Markup:
    if one.plain is None or one.personal is None:
        parts = [Markup(f'<p role="alert">⚠ {escaped(one.fault)}</p>')]
    else:
        parts = [
            _column("with your concepts", Markup(one.personal._repr_html_())),
            _column("the plain model", Markup(one.plain._repr_html_())),
            *(
                _column(f"attention to {looks.identifier}", Markup(looks._repr_html_()))
                for looks in one.attention
            ),
        ]
    columns = f'<div class="myvlm-row">{joined(parts)}</div>'
    return Markup(f'<section class="myvlm-look"><h4>{escaped(one.name)}</h4>{columns}</section>')


def _column(head: str, body: Markup) -> Markup:
    return Markup(f'<div class="myvlm-column"><b>{escaped(head)}</b>{body}</div>')


def concepts_html(library: ConceptLibrary) -> str:
    """Render one card per concept: its first photo, its identifier and its category."""
    if not library:
        return "<p>There are no concepts yet.</p>"
    return Markup(f'<div class="myvlm-row">{joined(map(_card, library.values()))}</div>')


def _card(concept: Concept) -> Markup:
    shown = [picture(image, alt=concept.identifier, width=96) for image, _ in concept.thumbnails[:1]]
    return Markup(
        f'<div class="myvlm-card">{figure(joined(shown), [concept.identifier, concept.category])}</div>'
    )


def correction_html(correction: Correction) -> str:
    """Render what a correction changed."""
    return correction._repr_html_()


def error_html(error: MyVLMError) -> str:
    """Render an error and its fix."""
    fix = f"<br/>{escaped(error.fix)}" if error.fix else ""
    return Markup(
        f'<p role="alert">⚠ {escaped(error.what)}<br/><small>got: {escaped(str(error.got))}</small>{fix}</p>'
    )
