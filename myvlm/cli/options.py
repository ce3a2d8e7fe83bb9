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


AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
BackboneName: TypeAlias = Annotated[
    str,
    typer.Option("--backbone", "-b", metavar="NAME", help="Embedded model, hub name, or folder of a model."),
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 …; a GPU if there is one.")
]
Precision: TypeAlias = Annotated[
    Dtype | None, typer.Option("--dtype", help="bfloat16 on a GPU and float32 on a CPU if not given.")
]
Pictures: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="PICTURES...", help="Files, folders (what is in folders in them is left out) or patterns."
    ),
]
Identifier: TypeAlias = Annotated[
    str, typer.Argument(help="An uncommon word (sks), or a person's name (Anna).")
]
Category: TypeAlias = Annotated[str, typer.Option(help="What it is in general, such as mug.")]
Negatives: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PICTURES", help="Pictures without it; the option again for more."),
]
Kind: TypeAlias = Annotated[
    str,
    typer.Option(
        help="How it is recognised: object; for a person face, or person, who is also proposed from behind."
    ),
]
OutFolder: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="DIR|ADDRESS",
        help="Its folder, concepts/IDENTIFIER-CATEGORY if not given; or hf://USER/REPOSITORY, s3://….",
    ),
]
FaceConsent: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--face-consent",
        help="The person agrees that descriptors of their face go to the address; MYVLM_SHARE_FACES names it "
        "too.",
    ),
]
KeepPhotos: TypeAlias = Annotated[bool, typer.Option("--keep-photos", help="Put the photos beside it.")]
Captions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE.json|TEXT",
        help='JSON {"photo.jpg": ["…", …]} or a list; or one text a photo: the option once for each. '
        "Each holds the identifier. Written by the model itself if not given.",
    ),
]
ConceptFolders: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--concepts",
        "-c",
        metavar="DIR|ADDRESS",
        help="A concept folder, or a folder of them, or an address (s3://…); again for more. ./concepts "
        "if it is there.",
    ),
]
FalseNames: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="False names expected at most in a thousand pictures of none of the concepts, however many; "
        "at fewer a little less is found. 50 if not given.",
    ),
]
Collection: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--concepts",
        "-c",
        metavar="DIR",
        help="Folder of concept folders; ./concepts if not given.",
    ),
]


def backbone_option(backbone: str) -> list[str]:
    """Return the command line words that select a backbone; empty for the default one.

    >>> backbone_option("tinyworld/blip2"), backbone_option(DEFAULT_BACKBONE)
    (['--backbone', 'tinyworld/blip2'], [])
    """
    return [] if backbone == DEFAULT_BACKBONE else ["--backbone", backbone]
