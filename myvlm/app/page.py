"""The layout of the page in gradio, and how its events call the actions of a `Desk`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from myvlm.app.desk import Desk
from myvlm.app.pointing import Corners, box_between, picture_with_corners
from myvlm.app.shown import concepts_html, correction_html, error_html, replies_html
from myvlm.concepts.correcting import Correction
from myvlm.display.page import Markup, escaped
from myvlm.errors import MyVLMError, import_extra
from myvlm.learning.progress import LearningProgress

QUEUED: dict[str, Any] = {
    "concurrency_id": "model",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
"""Options of the events that use the model: one runs at a time, over all open pages; others are queued."""

KINDS = {"automatic, by the category": None, "object": "object", "person, by the face": "face"}
"""The choices of how a concept is recognised, with the kind of head; None decides by the category."""

CSS = """
.myvlm-row {display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start}
.myvlm-row > div {max-width: 270px}
.myvlm-row img {max-width: 100% !important}
.myvlm-card {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 8px; min-width: 96px}
.myvlm-look {border-top: 1px solid var(--border-color-primary); padding: 8px 0}
[role=alert] {border-left: 4px solid #c0392b; padding: 4px 10px}
"""


def build(desk: Desk) -> Any:
    """Build the page as gradio's `Blocks`.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    gr = import_extra("gradio", what="The page", install="myvlm[app]")
    with gr.Blocks(title="MyVLM", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            f"# MyVLM\nTeach **{desk.vlm.backbone.name}** the things in your life. "
            "Everything stays on this machine."
        )
        with gr.Row():
            with gr.Column(scale=2):
                taught = _build_teaching(gr, desk)
            with gr.Column(scale=3):
                to_correct = _build_looking(gr, desk)
        gr.Markdown("### Concepts")
        cards = gr.HTML(concepts_html(desk.vlm.concepts), elem_id="concepts")
        with gr.Accordion("Rename or remove", open=False):
            to_change, changes = _build_managing(gr, desk)

        def refreshed() -> tuple[str, Any, Any]:
            names = gr.Dropdown(choices=desk.names, value=None)
            return concepts_html(desk.vlm.concepts), names, names

        for event in (taught, *changes):
            event.then(refreshed, outputs=[cards, to_change, to_correct], api_visibility="private")
        page.load(refreshed, outputs=[cards, to_change, to_correct], api_visibility="private")
    return page


def _build_teaching(gr: Any, desk: Desk) -> Any:
    """Build the left side, for learning; return the event after which the list of concepts changes."""
    gr.Markdown("### 1. Teach")
    photos = gr.File(
        label="3 to 5 photos of the concept",
        file_count="multiple",
        file_types=["image"],
        elem_id="photos",
        height=160,
    )
    name = gr.Textbox(label="Name", placeholder="sks, or Anna", elem_id="name")
    category = gr.Textbox(
        label="Category", placeholder="mug, dog, woman …", elem_id="category", max_length=60
    )
    kind = gr.Radio(
        list(KINDS), value=next(iter(KINDS)), label="Kind", elem_id="kind"
    )  # fmt: skip
    with gr.Accordion("Captions (optional)", open=False):
        captions = gr.Textbox(
            label="One line per photo, in order, each with the name. If empty, the model writes them.",
            lines=4, elem_id="captions",
        )  # fmt: skip
    with gr.Row():
        learn = gr.Button("Learn", variant="primary", elem_id="learn")
        stop = gr.Button("Stop and save", elem_id="stop")
    message = gr.HTML(elem_id="taught", min_height=90)

    def teach(
        files: list[str] | None, word: str | None, what: str | None, known: str, texts: str | None,
        bar: Any = gr.Progress(),  # noqa: B008
    ) -> str:  # fmt: skip
        def show(state: LearningProgress) -> None:
            bar((state.step, state.longest), desc=f"{state.doing} · {state.words}", unit="steps")

        def learned() -> str:
            concept = desk.teach(
                word or "",
                files or [],
                category=what or "",
                captions=texts or "",
                kind=KINDS[known],
                show=show,
            )
            return concept._repr_html_()

        return _html_or_error(learned)

    stop.click(desk.stop, queue=False, api_visibility="private")
    return learn.click(teach, [photos, name, category, kind, captions], message, **QUEUED)


def _build_looking(gr: Any, desk: Desk) -> Any:
    """Build the right side, for trying concepts; return the dropdown of the concept to correct."""
    gr.Markdown("### 2. Look")
    pictures = gr.File(
        label="Other pictures", file_count="multiple", file_types=["image"], elem_id="pictures", height=160
    )
    question = gr.Textbox(
        label="Question (if empty: captions)", placeholder="What is next to sks?", elem_id="question"
    )
    attention = gr.Checkbox(label="Show attention to each concept", elem_id="attention")
    look = gr.Button("Look", variant="primary", elem_id="look")
    seen = gr.HTML(elem_id="looks", min_height=90)

    def see(files: list[str] | None, asked: str | None, maps: bool) -> str:
        return _html_or_error(lambda: replies_html(desk.look(files or [], asked or "", attention=maps)))

    gr.on([look.click, question.submit], see, [pictures, question, attention], seen, **QUEUED)
    return _build_correcting(gr, desk, pictures)


def _build_correcting(gr: Any, desk: Desk, pictures: Any) -> Any:
    """Build the controls that correct detections; return the dropdown of the concept to correct."""
    last = gr.State(None)
    with gr.Accordion("Correct a detection", open=True), gr.Row():
        with gr.Column(min_width=200):
            file = gr.Dropdown([], label="Picture", elem_id="wrong-picture", interactive=True)
            name = gr.Dropdown(desk.names, label="Concept", elem_id="wrong", interactive=True, value=None)
        with gr.Column(min_width=200):
            corners = _build_box_picker(gr, file)
    with gr.Row():
        absent = gr.Button("Not this one", elem_id="absent")
        present = gr.Button("You missed it here", elem_id="present")
        undo = gr.Button("Undo", elem_id="undo")
    message = gr.HTML(elem_id="corrected")

    def listed(files: list[str] | None) -> Any:
        known = [(Path(one).name, one) for one in files or []]
        return gr.Dropdown(choices=known, value=known[0][1] if known else None)

    def corrector(there: bool) -> Callable[[str | None, str | None, Corners], tuple[str, Any]]:
        def correct(path: str | None, word: str | None, places: Corners) -> tuple[str, Any]:
            made: list[Correction] = []

            def done() -> str:
                if not path:
                    return "<p>Drop a picture first.</p>"
                box = box_between(path, places)
                made.append(desk.correct(path, word or "", present=there, box=box))
                return correction_html(made[0])

            return _html_or_error(done), made[0] if made else None

        return correct

    def take_back(correction: Correction | None) -> tuple[str, None]:
        if correction is None:
            return "<p>There is nothing to undo.</p>", None
        return _html_or_error(lambda: correction_html(desk.undo(correction))), None

    pictures.change(listed, pictures, file, api_visibility="private")
    absent.click(corrector(False), [file, name, corners], [message, last], **QUEUED)
    present.click(corrector(True), [file, name, corners], [message, last], **QUEUED)
    undo.click(take_back, last, [message, last], **QUEUED)
    return name


def _build_box_picker(gr: Any, file: Any) -> Any:
    """Build the picture on which the user clicks two corners of a box; return the state with the corners."""
    corners = gr.State(())
    gr.Markdown("Optional: click two opposite corners of the object.")
    place = gr.Image(
        show_label=False, interactive=False, type="pil", format="png", height=220, elem_id="place", buttons=[]
    )  # fmt: skip

    def click(path: str | None, known: Corners, event: Any) -> tuple[Any, Corners]:
        return picture_with_corners(path, known, event.index)

    click.__annotations__["event"] = gr.SelectData  # gradio reads the annotation at run time
    file.change(lambda path: picture_with_corners(path), file, [place, corners], api_visibility="private")
    place.select(click, [file, corners], [place, corners], api_visibility="private")
    return corners


def _build_managing(gr: Any, desk: Desk) -> tuple[Any, list[Any]]:
    """Build the controls to rename and remove; return the concept dropdown and the events of the changes."""
    with gr.Row():
        chosen = gr.Dropdown(desk.names, label="Concept", elem_id="chosen", interactive=True, value=None)
        new = gr.Textbox(label="New name", elem_id="new-name")
        rename = gr.Button("Rename", elem_id="rename")
    with gr.Row():
        erase = gr.Checkbox(label="Erase its files permanently", elem_id="erase")
        remove = gr.Button("Remove", variant="stop", elem_id="remove")
    message = gr.HTML(elem_id="kept")

    def call(old: str | None, word: str | None) -> str:
        def done() -> str:
            desk.rename(old or "", word or "")
            return "<p>Renamed.</p>"

        return _html_or_error(done)

    def take_out(name: str | None, for_good: bool) -> str:
        return _html_or_error(lambda: Markup(f"<p>{escaped(desk.remove(name or '', erase=for_good))}</p>"))

    events = [
        rename.click(call, [chosen, new], message, **QUEUED),
        remove.click(take_out, [chosen, erase], message, **QUEUED),
    ]
    return chosen, events


def _html_or_error(done: Callable[[], str]) -> str:
    """Return the HTML that `done` returns, or that of its error or of a stop by the user."""
    try:
        return done()
    except KeyboardInterrupt:
        return "<p>Stopped before the first step. Nothing was learned.</p>"
    except MyVLMError as error:
        return error_html(error)
