"""`myvlm doctor`: report what this machine can run, and the licences of the encoders."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from rich.table import Table
from rich.text import Text

from myvlm.cli import machine
from myvlm.cli.options import AsJson, Quiet
from myvlm.cli.screen import screen


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Report what this machine can run: devices, models that fit, weights on disk, licences.

    Nothing is downloaded. Whether a model fits is estimated from its number of parameters and the memory
    that is free now.
    """
    with screen(as_json=as_json, quiet=quiet) as out:
        with out.busy("checking this machine"):
            document = _document()
        out.show(document, *_tables(document))


def _document() -> dict[str, Any]:
    from myvlm.heads.licences import LICENCES

    found, hub = machine.devices(), machine.weights_on_disk()
    best = machine.largest(machine.MODELS, found[0])
    return {
        "command": "doctor",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("myvlm", "torch", "transformers", "open_clip_torch")},
        },
        "devices": [vars(one) for one in found],
        "models": [
            {
                "name": one.name,
                "family": one.family,
                "billions": one.billions,
                "fits": {device.name: list(one.fits(device)) for device in found},
                "bytes_on_disk": hub.get(one.name),
            }
            for one in machine.MODELS
        ],
        "other_weights": {name: size for name, size in hub.items() if name not in _names()},
        "encoders": [{**vars(one), "on_disk": machine.encoder_on_disk(one.encoder, hub)} for one in LICENCES],
        "extras": machine.extras(),
        "largest": best.name if best else None,
    }


def _tables(document: dict[str, Any]) -> list[Table | Text]:
    devices = Table("device", "what", "memory", "free", box=None, pad_edge=False, title=_versions(document))
    for one in document["devices"]:
        devices.add_row(
            Text(one["name"], style="bold"), Text(one["what"]), _gib(one["total"]), _gib(one["free"])
        )
    models = Table(
        "model", "parameters", *(f"fits on {one['name']}" for one in document["devices"]), "on disk"
    )
    models.box, models.pad_edge = None, False
    for one in document["models"]:
        fits = (", ".join(own) or "–" for own in one["fits"].values())
        size = one["bytes_on_disk"]
        models.add_row(Text(one["name"]), f"{one['billions']:g} B", *fits, _gib(size) if size else "–")
    encoders = Table("encoder", "default for", "licence", "on disk", box=None, pad_edge=False)
    for one in document["encoders"]:
        terms = Text(one["terms"], style="" if one["free"] else "yellow")
        if one["instead"]:
            terms.append(f"; for any use: {one['instead']}")
        encoders.add_row(
            Text(one["encoder"]), one["default"] or "–", terms, "yes" if one["on_disk"] else "no"
        )
    missing = ", ".join(name for name, there in document["extras"].items() if not there)
    first, largest = document["devices"][0]["name"], document["largest"] or "only the tinyworld models"
    advice = f"The largest model that fits on {first} without quantization: {largest}."
    if missing:
        advice += f" Not installed: {missing} (see the README for each)."
    advice += " tinyworld/llava and tinyworld/blip2 are included and run on a CPU."
    return [devices, Text(), models, Text(), encoders, Text(), Text(advice)]


def _names() -> set[str]:
    return {one.name for one in machine.MODELS}


def _versions(document: dict[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in document["versions"].items())


def _gib(size: int) -> str:
    return f"{size / machine.GIB:.1f} GiB"
