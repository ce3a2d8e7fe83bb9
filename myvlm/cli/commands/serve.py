"""`myvlm serve` and `myvlm token`: an OpenAI-compatible server for a model and the concepts of its users."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from myvlm.cli import opening, options
from myvlm.cli.screen import Screen, screen
from myvlm.concepts import collection
from myvlm.concepts.remote.address import path_or_url
from myvlm.errors import InputError, MissingFileError, import_extra

OwnersFile = Annotated[
    Path | None, typer.Option("--owners", metavar="FILE.json", help="Who may come in; see `myvlm token`.")
]


def serve(
    backbone: options.BackboneName = options.DEFAULT_BACKBONE,
    concepts: options.Collection = None,
    owners: OwnersFile = None,
    libraries: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="With --owners: where each has a folder; or an address."),
    ] = None,
    host: Annotated[str, typer.Option(help="One that others reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="MYVLM_TOKEN", help="Asked of every client; best set in the environment."),
    ] = None,
    may_change: Annotated[
        bool, typer.Option("--may-change", help="Clients may learn, rename, remove and erase concepts.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A vLLM server that speaks, such as http://127.0.0.1:8001/v1."),
    ] = None,
    requests: Annotated[int, typer.Option(min=1, help="Under way at once; more are answered 429.")] = 64,
    device: options.Device = None,
    dtype: options.Precision = None,
    false_names: options.FalseNames = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve a model and its concepts by an OpenAI-compatible API, by default to this computer only.

    myvlm serve --concepts concepts · then OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    """
    with screen(as_json=False, quiet=quiet) as out:
        for name in ("fastapi", "uvicorn", "python_multipart", "httpx"):
            import_extra(name, what="The server", install="myvlm[serve]")
        from myvlm.serving.http.app import check_address, check_port, create_app, server
        from myvlm.serving.http.limits import Limits
        from myvlm.serving.http.owners import LOCAL_OWNER, Access, Tokens, digest, read_tokens
        from myvlm.serving.http.speaking.engine import VllmEngine

        if owners is None:
            access = Access(LOCAL_OWNER, may_change)
            tokens = Tokens({digest(token): access}) if token else Tokens({}, anonymous=access)
            folders = {LOCAL_OWNER: _place_of_concepts(concepts)}
        else:
            if token or may_change or concepts or libraries is None:
                raise InputError(
                    "With --owners each has a token, rights and a folder of their own.",
                    got="--token, --may-change or --concepts, or no --libraries",
                    expected="--owners FILE.json --libraries DIR",
                    fix="leave the others out; `myvlm token` writes the file",
                )
            place = _place_of_libraries(libraries)
            tokens = read_tokens(owners)
            folders = {
                owner: place / owner if isinstance(place, Path) else f"{place}/{owner}"
                for owner in tokens.owners
            }
        check_address(host, tokens)
        check_port(host, port)
        vlm = opening.open_model(out, backbone, device, dtype, false_names)
        limits = Limits(requests=requests)
        speaks = VllmEngine(vlm, engine, key=_engine_key(), at_once=limits.batch) if engine else None
        app = create_app(vlm, tokens, folders, limits=limits, engine=speaks)
        _log_to_stderr(out)
        through = f", spoken by {engine}" if engine else ""
        where = f"{backbone} for {len(folders)} owner(s) is at http://{host}:{port}/v1{through}"
        check_port(host, port)  # again: another program may have taken it while the model was loading
        server(app, host, port, lambda: out.note(f"{where}; Ctrl-C ends it.")).run()


def token(
    owner: Annotated[str, typer.Argument(help="Whose concepts it opens.")],
    owners: Annotated[Path, typer.Option("--owners", metavar="FILE.json", help="Made if not there.")],
    may_change: Annotated[
        bool, typer.Option("--may-change", help="It may learn, rename, remove and erase them too.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a token for an owner of concepts. It is shown once: the file stores only its digest."""
    with screen(as_json=as_json, quiet=quiet) as out:
        from myvlm.serving.http.owners import new_token

        made = new_token(owners, owner, may_change=may_change)
        out.written.append(owners)
        out.show({"owner": owner, "token": made, "may_change": may_change}, Text(made))


def _place_of_concepts(given: str | None) -> Path | str:
    place = None if given is None else path_or_url(given, "folder of concepts")
    return _check_reachable(place) if isinstance(place, str) else collection.existing_or_default(place)


def _place_of_libraries(given: str) -> Path | str:
    place = path_or_url(given, "folder of libraries")
    if isinstance(place, str):
        return _check_reachable(place)
    if not place.is_dir():
        raise MissingFileError(
            f"There is no folder {place}.", got=given, expected="a folder", fix=f"mkdir {place}"
        )
    return place


def _check_reachable(url: str) -> str:
    """Return an address once it has answered. Raises InputError, MissingPackageError, RemoteError."""
    from myvlm.concepts.remote.store import Store
    from myvlm.serving.http.libraries import library_at

    library_at(url)
    with suppress(MissingFileError):  # no concept is there yet
        Store(url).folders()
    return url


def _engine_key() -> str | None:
    """Read the engine's API key from the environment only: an option would show in the process list."""
    return os.environ.get("MYVLM_ENGINE_KEY") or None


def _log_to_stderr(out: Screen) -> None:
    if not out.quiet:
        logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
        logging.getLogger("myvlm.serving").setLevel(logging.INFO)
