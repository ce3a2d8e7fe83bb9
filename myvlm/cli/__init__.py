"""The `myvlm` command line program. Each command in `commands` is a thin layer over `MyVLM` or `concepts`.

Nothing here imports torch or transformers before a command runs, so that `myvlm --help` answers at once.
Results go to stdout, everything else to stderr; `myvlm.cli.screen` lists the exit codes.
"""

from __future__ import annotations

import sys
from inspect import getdoc
from io import TextIOWrapper
from typing import Annotated

import typer

from myvlm.cli.commands import app as page
from myvlm.cli.commands import demo, doctor, serve
from myvlm.cli.commands.concepts import correct, introduce, learn, learn_all, manage, questions, relearn
from myvlm.cli.commands.pictures import album, completeness, evaluate, locate, speak

app = typer.Typer(
    name="myvlm",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 success, 1 internal error, 2 bad input, 3 unknown concept or model, 130 Ctrl-C.",
)
app.command("demo")(demo.demo)
app.command("app")(page.app)
app.command("learn")(learn.learn)
app.command("learn-all")(learn_all.learn_all)
app.command("introduce")(introduce.introduce)
app.command("questions")(questions.questions)
app.command("relearn")(relearn.relearn)
app.command("caption")(speak.caption)
app.command("ask")(speak.ask)
app.command("locate")(locate.locate)
app.command("album")(album.album)
app.command("correct")(correct.correct)
app.command("serve")(serve.serve)
app.command("token")(serve.token)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(completeness.app, name="completeness")
app.command("doctor")(doctor.doctor)
app.add_typer(manage.app, name="concepts")
for described in (app, completeness.app, manage.app):
    for command in described.registered_commands:  # typer wraps text, but keeps a docstring's line breaks
        paragraphs = (getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(paragraph.replace("\n", " ") for paragraph in paragraphs)


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda wanted: _version(wanted), help="Show the version."
        ),
    ] = False,
) -> None:
    """Teach a frozen vision-language model your own concepts: your mug, your dog, your friend."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # stdout may be ASCII-only; file names are not


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"myvlm {version('myvlm')}")
        raise typer.Exit
