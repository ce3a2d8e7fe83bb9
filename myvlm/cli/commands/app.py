"""`myvlm app`: a page in the browser to teach a model concepts and to try them."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from myvlm.cli import opening, options
from myvlm.cli.screen import screen
from myvlm.concepts import collection, editing


def app(
    concepts: options.Collection = None,
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    device: options.Device = None,
    dtype: options.Precision = None,
    false_names: options.FalseNames = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: 7860, or the next free port.")
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
    quiet: options.Quiet = False,
) -> None:
    """Teach concepts and try them in the browser; the page can be reached from this machine only.

    myvlm app --backbone llava-hf/llava-1.5-7b-hf
    """
    with screen(as_json=False, quiet=quiet) as out:
        from myvlm.errors import import_extra

        with out.busy("starting"):
            import_extra("gradio", what="The page", install="myvlm[app]")
        place = opening.local_collection(concepts) or collection.DEFAULT
        editing.check_writable(place / "any")
        vlm = opening.open_model(out, backbone, device, dtype, false_names)
        with out.busy("loading concepts"):
            inside = opening.chosen_folders(out, [place]) if collection.entries(place) else []
            opening.add_concepts(out, vlm, [(folder, False) for folder, _ in inside])
        from myvlm.app.desk import Desk
        from myvlm.app.server import running
        from myvlm.app.storage import CollectionStorage

        with running(Desk(vlm, CollectionStorage(place)), port=port, browser=browser) as address:
            out.note(f"The page is at {address}; stop it with Ctrl-C.")
            threading.Event().wait()
