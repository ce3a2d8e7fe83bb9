"""Find a model by name: embedded, on the hub or in a folder; and the encoder and concepts that go with it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from myvlm.errors import InputError, UnknownBackboneError
from myvlm.learning import LearnSettings
from myvlm.library import ConceptLibrary

CUDA_ENCODER = "hf-hub:apple/DFN5B-CLIP-ViT-H-14-384"
"""The paper's encoder (§4 of arXiv 2403.14599): 1 B parameters, for a GPU."""
CPU_ENCODER = "ViT-B-32@laion2b_s34b_b79k"
"""A light encoder for a CPU: 88 M parameters in the vision tower, about 50 ms a window on two cores."""


def default_encoder(backbone: str, device: str) -> str:
    """The image encoder for heads where none is named.

    >>> default_encoder("tinyworld/llava", "cpu")
    'tinyworld/clip'
    """
    if backbone.startswith("tinyworld/"):
        return "tinyworld/clip"
    return CUDA_ENCODER if device.startswith("cuda") else CPU_ENCODER


HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
"""What says where files come from, and so goes to the processor too."""

FAMILY_SETTINGS: dict[str, dict[str, float]] = {
    "blip2": {"steps": 75, "regularizer": 0.04},
    "minigpt_v2": {"steps": 200},
}
"""What the paper says for a family, where that is not the default of `LearnSettings`."""


def default_settings(backbone: str, *, family: str = "", kind: str = "object") -> LearnSettings:
    """How a concept is learned on a backbone where nothing else is said.

    Args:
        backbone: its name.
        family: of the backbone, where the name is not one of tinyworld's.
        kind: of the head; on BLIP-2 objects take 75 steps and all others 100 (§4 of arXiv 2403.14599).

    The paper's learning rate is for models of 7 B. The embedded models say every name where learning starts,
    at the words, but often of the neighbour, and the less they are moved from there, the better they tell
    several concepts apart. Chosen on users whom no benchmark knows (seeds 6 to 9 of `few_shot`, ten pictures
    each, gate told the truth), on weights of before: six users of `tinyworld/llava` are named in 1.000 of the
    pictures whatever the rate; at 0, 0.01, 0.02 and 0.04 it says 0.913, 0.986, 0.986 and 0.971 of the
    surroundings that the plain model says right, and two users with three concepts in a picture have them
    named at F1 0.889 (one user), 0.884, 0.897 and 0.884. There λ makes no difference from 0.03 to 0.4. With
    the attention told, 50 steps do: twelve users (seeds 6 to 8, twenty pictures each) are named in 1.000 of
    the pictures with 1.000 of the surroundings, from one photo as from four, and twelve (seeds 6 to 9, twelve
    each) who learned from the model's own captions in all that the head saw, where 100 steps lost 5 of 144
    names. On older weights, turned and darkened views, which its small models hardly know, cost surroundings
    and brought no recall, and four rows were better than two and one (surroundings 0.986, 0.980, 0.955; 24
    users).

    On `tinyworld/blip2`, also on weights of before, 75 steps at 0.005 with λ 0.4 name six users (seeds 6 to
    9, eight pictures each) in 1.000 of the pictures with 0.977 of the surroundings, at 0.02 in 0.979 with
    0.953. On still older ones, at 0.02, λ 0.4 gave 0.98 and 0.95, λ 1.5 0.98 and 0.93, λ 0.4 with
    augmentation 0.95 and 0.91.

    >>> default_settings("tinyworld/llava").learning_rate
    0.02
    >>> default_settings("Salesforce/blip2-opt-2.7b", family="blip2").steps
    75
    """
    if backbone == "tinyworld/llava":
        return LearnSettings(rows=4, steps=50, learning_rate=0.02, regularizer=0.03, augment=False)
    if backbone == "tinyworld/blip2":
        return LearnSettings(rows=4, steps=75, learning_rate=0.005, regularizer=0.4, augment=False)
    family = family or backbone.removeprefix("tinyworld/")
    said = dict(FAMILY_SETTINGS.get(family, {}))
    if family == "blip2" and kind != "object":
        said["steps"] = 100
    return LearnSettings.model_validate(said)


DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""What a model can be held in."""


def check_device(device: str | None) -> None:
    """Raise InputError unless torch can use the device here; None is one that is yet to be chosen.

    >>> check_device("cpu")
    >>> check_device("gpu")
    Traceback (most recent call last):
    myvlm.errors.InputError: There is no device 'gpu'.
    ...
    """
    usable = ["cpu"]
    if torch.accelerator.is_available() and (found := torch.accelerator.current_accelerator()):
        usable += [found.type, *(f"{found.type}:{n}" for n in range(torch.accelerator.device_count()))]
    try:
        if device is None or str(torch.device(device)) in usable:
            return
        got = "none that torch can use here"
    except (RuntimeError, TypeError) as error:  # a name that it has never heard of
        got = str(error).splitlines()[0]
    raise InputError(
        f"There is no device {device!r}.",
        got=got,
        expected=", ".join(usable),
        fix="leave device (--device) out to take a GPU if there is one",
    )


def check_dtype(dtype: str | torch.dtype | None) -> None:
    """Raise InputError unless a model can be held in numbers of that type; None is one yet to be chosen.

    >>> check_dtype("bfloat16")
    """
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype not in (None, "auto") and chosen not in DTYPES:
        raise InputError(
            f"A model cannot be held in {dtype!r}.",
            got=repr(dtype),
            expected=f"auto, {', '.join(str(one).removeprefix('torch.') for one in DTYPES)}",
            fix="leave dtype out; for 8 or 4 bits pass a quantization_config",
        )


def known_concepts(given: ConceptLibrary | str | PathLike[str] | None, *, device: str) -> ConceptLibrary:
    """What a model knows to begin with: the library itself, that of a folder, or an empty one.

    Raises:
        MissingFileError, ConceptFileError: see `ConceptLibrary.load`.
        InputError: it is neither.
    """
    if isinstance(given, ConceptLibrary):
        return given
    if given is not None and not isinstance(given, str | PathLike):
        raise InputError(
            "That is no library of concepts.",
            got=type(given).__name__,
            expected="a ConceptLibrary, or a folder of concept folders",
            fix="for some concepts or their folders pass ConceptLibrary([...])",
        )
    return ConceptLibrary.load(given, device=device) if given else ConceptLibrary(device=device)


def load_model(
    name: str, *, device: str | None, dtype: str | torch.dtype | None, model_options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """A transformers model in eval mode on its device, and its processor.

    Raises:
        UnknownBackboneError: nothing of that name can be found, or its architecture is unknown here.
        InputError: device or dtype cannot be; see `check_device` and `check_dtype`.
    """
    check_device(device)
    check_dtype(dtype)
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    if not name.startswith("tinyworld/"):
        import_module("myvlm.backbones.minigpt_model")  # makes known the one model that transformers has not
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    options = dict(model_options)
    if "quantization_config" in options:
        options.setdefault("device_map", device)  # such weights cannot be moved once they are read
    from_where = {name: options[name] for name in HUB_OPTIONS if name in options}
    source: str | Path = _embedded(name) if name.startswith("tinyworld/") else name
    shown = logging.is_progress_bar_enabled()
    if isinstance(source, Path):
        logging.disable_progress_bar()  # it is read in a moment
    try:
        processor = AutoProcessor.from_pretrained(source, **from_where)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise UnknownBackboneError(
            f"The model {name!r} cannot be loaded.",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="tinyworld/llava, the name of a vision-language model on the hub, or its folder",
            fix="check the spelling; without a network pass a folder, or MyVLM(model, processor)",
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    if "device_map" not in options:
        model = model.to(device)
    return model.eval(), processor


def _embedded(name: str) -> Path:
    from myvlm.tinyworld import assets

    return assets.path(name.removeprefix("tinyworld/"))
