"""Options and arguments that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeAlias

import typer

DEFAULT_BACKBONE = "tinyworld/llava"


class Workers(StrEnum):
    """Where long work runs: in this process, or in the processes of a Ray cluster."""

    local = "local"
    ray = "ray"


class Dtype(StrEnum):
    """Floating point types that a model can be loaded in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress and notes.")]
BackboneName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--backbone", "-b", metavar="NAME", help="Model: built-in (tinyworld/…), hub name, or folder."
    ),
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 …. Default: a GPU if present.")
]
DeviceOfHeads: TypeAlias = Annotated[
    str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …. Default: cpu.")
]
Precision: TypeAlias = Annotated[
    Dtype | None, typer.Option("--dtype", help="Default: bfloat16 on a GPU, float32 on a CPU.")
]
_PICTURES = typer.Argument(metavar="PICTURES...", help="Files, folders (without subfolders) or patterns.")
Pictures: TypeAlias = Annotated[list[str], _PICTURES]
OptionalPictures: TypeAlias = Annotated[list[str] | None, _PICTURES]
Identifier: TypeAlias = Annotated[
    str, typer.Argument(help="An uncommon word (sks) or a person's name (Anna).")
]
Category: TypeAlias = Annotated[str, typer.Option(help="General noun for the concept, such as mug.")]
Negatives: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PICTURES", help="Pictures without the concept. Repeat the option for more."),
]
Kind: TypeAlias = Annotated[
    str,
    typer.Option(
        help="Kind of head: object; face; or person, which also proposes people without a visible face."
    ),
]
ENCODER_HELP = "Image encoder of the head, such as ViT-B-32@openai or dlib/resnet-v1."
OutFolder: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR|ADDRESS",
        help="Folder or address (hf://USER/REPOSITORY, s3://…). Default: concepts/NAME-CATEGORY.",
    ),
]
FaceConsent: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--face-consent",
        help="The person agrees to the upload of their face descriptors. MYVLM_SHARE_FACES must list the "
        "address too.",
    ),
]
KeepPhotos: TypeAlias = Annotated[
    bool, typer.Option("--keep-photos", help="Store the photos with the concept.")
]
CAPTIONS_HELP = (
    'JSON file, {"photo.jpg": ["…", …]} or a list; or one text per photo, by repeating the option. '
    "Each contains the identifier. Default: "
)
Captions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="FILE.json|TEXT", help=f"{CAPTIONS_HELP}the model writes them."),
]
CaptionsAgain: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--captions", metavar="FILE.json|TEXT", help=f"{CAPTIONS_HELP}those in the folder."),
]
ConceptFolders: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--concepts",
        "-c",
        metavar="DIR|ADDRESS",
        help="Concept folder, folder of concept folders, or address (s3://…). Repeat the option for more. "
        "Default: ./concepts if present.",
    ),
]
FalseNames: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Maximum expected number of false names per 1000 pictures without the concepts. A lower limit "
        "finds slightly fewer concepts. Default: 50.",
    ),
]
Collection: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--concepts",
        "-c",
        metavar="DIR",
        help="Folder of concept folders. Default: ./concepts.",
    ),
]


def backbone_option(backbone: str) -> list[str]:
    """Return the command line words that select a backbone; empty for the default one.

    >>> backbone_option("tinyworld/blip2"), backbone_option(DEFAULT_BACKBONE)
    (['--backbone', 'tinyworld/blip2'], [])
    """
    return [] if backbone == DEFAULT_BACKBONE else ["--backbone", backbone]
