"""Load a personalized model and let it answer: the part that the integrations of evaluation kits share."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from myvlm.api import MyVLM
from myvlm.errors import InputError
from myvlm.images import ImageSource

PASSED_OPTIONS = (
    *("max_new_tokens", "min_new_tokens", "num_beams", "length_penalty", "repetition_penalty"),
    *("no_repeat_ngram_size", "do_sample", "temperature", "top_p", "top_k"),
)
"""Generation settings of a kit that are passed to transformers' `generate`; all others are dropped."""
SAMPLING_OPTIONS = ("temperature", "top_p", "top_k")


def open_personalized(
    pretrained: str,
    *,
    concepts: str | PathLike[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    encoder: str | None = None,
) -> MyVLM:
    """Load a model with a library of concepts, and check that all of them were learned for this model.

    Args:
        pretrained: `tinyworld/llava`, a hub name or a folder.
        concepts: folder of concept folders; None for no concepts.
        device, dtype, encoder: see `MyVLM.from_pretrained`.

    Raises:
        UnknownBackboneError: there is no such model.
        MissingFileError: the folder of concepts does not exist.
        ConceptFileError: a concept belongs to another model; found now, not in the middle of a benchmark.

    >>> len(open_personalized("tinyworld/llava", device="cpu").concepts)
    0
    """
    vlm = MyVLM.from_pretrained(pretrained, device=device, dtype=dtype, encoder=encoder, concepts=concepts)
    for concept in vlm.concepts.values():
        concept.embedding_for(vlm.backbone.name, vlm.backbone.fingerprint(), vlm.backbone.dim)
    return vlm


def answers(
    vlm: MyVLM, pictures: Sequence[ImageSource], question: str, options: Mapping[str, Any], *, plain: bool
) -> list[str]:
    """Answer one question about each picture.

    Args:
        question: the kit's prompt; image placeholders are removed, since the backbone adds its own.
        options: generation options, see `generation_options`.
        plain: whether to answer as the frozen model without concepts.

    Raises:
        InputError: the question is empty apart from placeholders.
    """
    text = question.replace(str(vlm.backbone.processor.image_token), " ").strip()
    if plain:
        with vlm.generic():
            return [str(reply) for reply in vlm.ask(list(pictures), text, **options)]
    return [str(reply) for reply in vlm.ask(list(pictures), text, **options)]


def generation_options(settings: Mapping[str, Any], *, max_new_tokens: int) -> dict[str, Any]:
    """Convert a kit's generation settings to options of `MyVLM.ask`; greedy unless the temperature is > 0.

    Args:
        settings: the kit's generation settings.
        max_new_tokens: maximum number of new tokens if the settings have none.

    >>> settings = {"temperature": 0, "top_p": 1.0, "until": ["x"], "num_beams": 1}
    >>> generation_options(settings, max_new_tokens=16)
    {'max_new_tokens': 16, 'num_beams': 1, 'do_sample': False}
    >>> generation_options({"temperature": 0.7, "max_new_tokens": 8}, max_new_tokens=16)
    {'max_new_tokens': 8, 'temperature': 0.7, 'do_sample': True}
    """
    options = {name: settings[name] for name in PASSED_OPTIONS if settings.get(name) is not None}
    is_sampling = bool(options.pop("do_sample", True)) and options.get("temperature", 0) > 0
    if not is_sampling:
        options = {name: value for name, value in options.items() if name not in SAMPLING_OPTIONS}
    return {"max_new_tokens": max_new_tokens, **options, "do_sample": is_sampling}


def one_picture(pictures: Sequence[Any], of: str) -> Any:
    """Return the only picture of a question.

    Raises:
        InputError: there is no picture, or several: concepts are used in one picture at a time.

    >>> one_picture([], "POPE 3")
    Traceback (most recent call last):
    myvlm.errors.InputError: POPE 3 does not have exactly one picture.
      got:      0 pictures
      expected: 1
      fix:      choose tasks with one picture per question, such as POPE, MME, MMBench
    """
    if len(pictures) != 1:
        raise InputError(
            f"{of} does not have exactly one picture.",
            got=f"{len(pictures)} pictures",
            expected="1",
            fix="choose tasks with one picture per question, such as POPE, MME, MMBench",
        )
    return pictures[0]


def import_kit(module: str, *, package: str, extra: str) -> Any:
    """Import a module of an evaluation kit.

    Raises:
        InputError: the kit is not installed.

    >>> import_kit("no_such_kit.api", package="no-such-kit", extra="lmms")
    Traceback (most recent call last):
    myvlm.errors.InputError: The evaluation kit no-such-kit is not installed.
      got:      No module named 'no_such_kit'
      expected: no-such-kit
      fix:      pip install "myvlm[lmms]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise  # the kit is installed, but one of its own dependencies is not
        raise InputError(
            f"The evaluation kit {package} is not installed.",
            got=str(error),
            expected=package,
            fix=f'pip install "myvlm[{extra}]"',
        ) from error
