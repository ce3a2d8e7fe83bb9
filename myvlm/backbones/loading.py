"""Loading a model by name: an embedded one, one on the hub or one in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from myvlm.errors import InputError, UnknownBackboneError, first_line
from myvlm.plugins.model_collections import collection_of

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token", "trust_remote_code")
"""Options that select the files to load; they are passed to the processor too."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
"""Supported dtypes of a model."""


def check_device(device: str | None) -> None:
    """Raise InputError unless torch can use the device here. None, for automatic choice, is valid.

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
        got = "a device that torch cannot use here"
    except (RuntimeError, TypeError) as error:  # torch does not know the name
        got = first_line(error)
    raise InputError(
        f"There is no device {device!r}.",
        got=got,
        expected=", ".join(usable),
        fix="leave device (--device) out to use a GPU if there is one",
    )


def check_dtype(dtype: str | torch.dtype | None) -> None:
    """Raise InputError unless models support the dtype. None, for automatic choice, is valid.

    >>> check_dtype("bfloat16")
    """
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    open_yet = dtype is None or (isinstance(dtype, str) and dtype == "auto")
    if not open_yet and not any(chosen is one for one in DTYPES):
        raise InputError(
            f"Models cannot be loaded with dtype {dtype!r}.",
            got=repr(dtype),
            expected=f"auto, {', '.join(str(one).removeprefix('torch.') for one in DTYPES)}",
            fix="leave dtype out; for 8 or 4 bits pass a quantization_config",
        )


def load_model(
    name: str, *, device: str | None, dtype: str | torch.dtype | None, model_options: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Load a transformers model, in eval mode on its device, and its processor.

    Raises:
        UnknownBackboneError: there is no model of that name, or its architecture is unknown here.
        InputError: the device or dtype is invalid; see `check_device` and `check_dtype`.
    """
    options = dict(model_options)
    dtype = _one_dtype(dtype, options.pop("torch_dtype", None))
    check_device(device)
    check_dtype(dtype)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    found = collection_of(name)
    if not found:
        # Registers MiniGPT-v2, the one supported model that transformers lacks.
        import_module("myvlm.backbones.families.minigpt.model")
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    if found and (put_together := found[0].assembled.get(found[1])):
        _check_no_options(name, options)
        model, processor = put_together()
        return model.to(device, None if dtype == "auto" else as_dtype(dtype)).eval(), processor
    if "quantization_config" in options:
        options.setdefault("device_map", device)  # quantised weights cannot be moved after loading
    from_where = {name: options[name] for name in HUB_OPTIONS if name in options}
    source: str | Path = found[0].path(found[1]) if found else name
    try:
        bars = without_progress_bars() if isinstance(source, Path) else nullcontext()
        with bars:  # none for a small local model, which loads in a moment
            processor = AutoProcessor.from_pretrained(source, **from_where)
            model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, **options)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises almost anything on a damaged file or an unknown option
        raise UnknownBackboneError(
            f"The model {name!r} cannot be loaded.",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="tinyworld/llava, the name of a vision-language model on the hub, or its folder",
            fix=_loading_advice(error),
        ) from error
    if "device_map" not in options:
        model = model.to(device)
    return model.eval(), processor


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of transformers in the block; they are enabled again if they were before."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _one_dtype(dtype: str | torch.dtype | None, older: str | torch.dtype | None) -> str | torch.dtype | None:
    """The requested dtype, from `dtype` or from its older name in transformers, `torch_dtype`.

    >>> _one_dtype(None, "bfloat16")
    'bfloat16'
    """
    if dtype is not None and older is not None and str(dtype) != str(older):
        raise InputError(
            "`dtype` and `torch_dtype` disagree.",
            got=f"dtype {dtype!r}, torch_dtype {older!r}",
            expected="one of them, or the same value for both",
            fix="leave torch_dtype out: it is the older name for dtype",
        )
    return older if dtype is None else dtype


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """The torch dtype for a name that `check_dtype` has accepted.

    >>> as_dtype("bfloat16")
    torch.bfloat16
    """
    found: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found


def _check_no_options(name: str, options: Mapping[str, Any]) -> None:
    if options:
        raise InputError(
            f"The model {name!r} accepts no further options.",
            got=", ".join(sorted(options)),
            expected="only device and dtype: the model is assembled from parts while loading",
            fix="leave them out, or quantise the loaded model and pass it to MyVLM(model, processor)",
        )


def _loading_advice(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the missing package, or leave out the option that needs it"
    if isinstance(error, TypeError | AttributeError):
        return "check the spelling of the options; if there are none, download the model's files again"
    if isinstance(error, SafetensorError):
        return "download the weights again: the file is truncated, damaged or a Git LFS pointer"
    return "check the spelling; without a network, pass a folder or use MyVLM(model, processor)"
