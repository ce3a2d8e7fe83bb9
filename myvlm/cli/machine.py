"""Find what this machine can run: its devices, the README's models that fit, weights on disk, extras."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

GIB = 1 << 30
WORKING_MEMORY = 2 * GIB
"""Bytes needed besides the weights: the heads' encoder, activations, cached prefixes of a few views."""
BYTES_PER_PARAMETER = {"float32": 4.0, "bfloat16": 2.0, "8 bits": 1.1, "4 bits": 0.65}
"""Bytes per parameter. The quantised values include the parameters that stay in bfloat16."""


@dataclass(frozen=True)
class Device:
    """A device that a model can run on; `total` and `free` memory in bytes."""

    name: str
    what: str
    total: int
    free: int

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(BYTES_PER_PARAMETER) if self.name.startswith("cuda") else ("float32", "bfloat16")


@dataclass(frozen=True)
class Model:
    """A checkpoint listed in the README, with its number of parameters in billions."""

    name: str
    family: str
    billions: float

    def bytes_needed(self, precision: str) -> int:
        """Return the bytes of memory for the weights and for working memory.

        >>> round(Model("llava-hf/llava-1.5-7b-hf", "LLaVA 1.5", 7.06).bytes_needed("bfloat16") / GIB, 1)
        15.2
        """
        return round(self.billions * 1e9 * BYTES_PER_PARAMETER[precision]) + WORKING_MEMORY

    def fits(self, device: Device) -> tuple[str, ...]:
        """Return the precisions in which the model fits into the device's free memory, most exact first.

        >>> seven = Model("llava-hf/llava-1.5-7b-hf", "LLaVA 1.5", 7.06)
        >>> seven.fits(Device("cuda:0", "a GPU", 24 * GIB, 23 * GIB))
        ('bfloat16', '8 bits', '4 bits')
        """
        return tuple(one for one in device.precisions if self.bytes_needed(one) <= device.free)


MODELS = (
    Model("OpenGVLab/InternVL3-1B-hf", "InternVL", 0.8),
    Model("HuggingFaceTB/SmolVLM-Instruct", "Idefics3, SmolVLM", 2.25),
    Model("google/paligemma-3b-mix-224", "PaliGemma", 2.92),
    Model("Salesforce/blip2-opt-2.7b", "BLIP-2", 3.74),
    Model("Salesforce/blip2-flan-t5-xl", "BLIP-2", 3.88),
    Model("google/gemma-3-4b-it", "Gemma 3", 4.3),
    Model("llava-hf/llava-1.5-7b-hf", "LLaVA 1.5", 7.06),
    Model("llava-hf/llava-v1.6-vicuna-7b-hf", "LLaVA-NeXT", 7.06),
    Model("llava-hf/llava-v1.6-mistral-7b-hf", "LLaVA-NeXT", 7.57),
    Model("MiniGPT-v2", "MiniGPT-v2", 7.75),
    Model("Salesforce/instructblip-vicuna-7b", "InstructBLIP", 7.91),
    Model("llava-hf/llava-onevision-qwen2-7b-ov-hf", "LLaVA-OneVision", 8.03),
    Model("Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2.5-VL", 8.29),
    Model("OpenFace-CQUPT/Human_LLaVA", "HumanVLM", 8.47),
    Model("allenai/Molmo2-8B", "Molmo 2", 8.66),
    Model("zai-org/GLM-4.1V-9B-Thinking", "GLM-4.1V", 10.29),
    Model("meta-llama/Llama-3.2-11B-Vision-Instruct", "Mllama", 10.67),
    Model("llava-hf/llava-1.5-13b-hf", "LLaVA 1.5", 13.35),
    Model("mistralai/Mistral-Small-3.1-24B-Instruct-2503", "Mistral 3", 23.34),
)


def devices() -> list[Device]:
    """Return all devices that torch can use on this machine, GPUs first."""
    import psutil
    import torch

    found = []
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(number)
        found.append(Device(f"cuda:{number}", torch.cuda.get_device_name(number), total, free))
    memory = psutil.virtual_memory()
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU, shares the memory", memory.total, memory.available))
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return [*found, Device("cpu", f"{cores} cores", memory.total, memory.available)]


def weights_on_disk() -> dict[str, int]:
    """Return the size in bytes of each model in the cache of the Hugging Face Hub."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return {one.repo_id: one.size_on_disk for one in scan_cache_dir().repos if one.repo_type == "model"}
    except CacheNotFound:
        return {}


def encoder_on_disk(encoder: str, hub: Mapping[str, int]) -> bool:
    """Return whether an encoder's weights are on disk, so that it works offline."""
    if encoder.startswith("facenet/"):
        from facenet_pytorch.models.inception_resnet_v1 import get_torch_home

        from myvlm.heads.faces.facenet import FacenetEncoder

        return Path(get_torch_home(), "checkpoints", FacenetEncoder.weights_file).is_file()
    if encoder.startswith("dlib/"):
        return find_spec("face_recognition_models") is not None
    if encoder.startswith("hf-hub:"):
        return encoder.removeprefix("hf-hub:") in hub
    if encoder.startswith("transformers:"):
        return encoder.removeprefix("transformers:") in hub
    from open_clip.pretrained import get_pretrained_cfg

    model, _, tag = encoder.partition("@")
    return str(get_pretrained_cfg(model, tag).get("hf_hub", "")).rstrip("/") in hub


def extras() -> dict[str, bool]:
    """Return for each optional extra but `dev` whether everything that it needs is installed."""
    from packaging.requirements import Requirement

    names = metadata("myvlm").get_all("Provides-Extra") or []
    needs = [Requirement(one) for one in requires("myvlm") or ()]
    found = {
        extra: all(
            _is_installed(one.name, one.specifier)
            for one in needs
            if one.marker and one.marker.evaluate({"extra": extra})
        )
        for extra in sorted(set(names) - {"dev"})
    }
    return {**found, "album": found["album"] and shutil.which("exiftool") is not None}


def _is_installed(package: str, releases: SpecifierSet) -> bool:
    try:
        return releases.contains(version(package), prereleases=True)
    except PackageNotFoundError:
        return False


def largest(models: Sequence[Model], device: Device) -> Model | None:
    """Return the largest model that fits on a device without quantisation, or None."""
    fitting = [one for one in models if {"float32", "bfloat16"} & set(one.fits(device))]
    return max(fitting, key=lambda one: one.billions, default=None)
