"""Stock vLLM in its own environment; `MYVLM_VLLM` names its Python (.github/CONTRIBUTING.md)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PYTHON = os.environ.get("MYVLM_VLLM", "")
ROOT = Path(__file__).parents[2]
FAMILIES = ROOT / "benchmarks" / "vllm_families.py"
WAIT = 900.0
"""Seconds for vLLM to start, or for all tiny models, on a busy machine; CI has a limit too."""
OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""Packages that torchvision imports and nothing here calls; the index has it for another torch only."""


def environment(folder: Path) -> dict[str, str]:
    """Environment variables for a process with vLLM and its children."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(OPERATORS)
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise every server uses the first core
        "VLLM_NO_USAGE_STATS": "1",
    }


def made(folder: Path, *families: str) -> None:
    """Write tiny models of these families, in a process of its own because it makes all tiny models wider."""
    only = [word for family in families for word in ("--only", family)]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, FAMILIES, "make", folder, *only], env=here, check=True, capture_output=True
    )


def run(folder: Path, place: Path) -> dict[str, Any]:
    """The results of `benchmarks/vllm_families.py run` for them."""
    done = subprocess.run(
        [PYTHON, FAMILIES, "run", folder],
        env=environment(place),
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


@contextmanager
def serving(model: Path, place: Path, flags: Sequence[str]) -> Iterator[str]:
    """Run vLLM's server for the model in that folder inside this context; yields its `/v1` address."""
    with socket.socket() as held:
        # Bound until the end and never listening: reserves the port for vLLM, which may share it.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        server = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
        model_flags = ["--model", str(model), "--dtype", "float32", "--enforce-eager"]
        command = [*server, "--port", str(port), *model_flags, *flags]
        log = place / f"{model.name}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=environment(place), stdout=out, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            begun = time.monotonic()
            while not _answers(url):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < begun + WAIT, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a server, which stops its children; kill it if that takes too long."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/models", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
