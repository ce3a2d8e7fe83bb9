"""Stock vLLM, in an environment of its own: `MYVLM_VLLM` names its Python (.github/CONTRIBUTING.md)."""

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
"""Seconds that vLLM may take to begin, or for all tiny models, on a busy machine; CI has a limit too."""
OPERATORS = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
"""What torchvision asks for and nothing here calls: its build on the index is for a another torch."""


def environment(folder: Path) -> dict[str, str]:
    """Of a process with vLLM, and of those that it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(OPERATORS)
    return {
        **os.environ,
        "PYTHONPATH": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or every server would sit on the first core
        "VLLM_NO_USAGE_STATS": "1",
    }


def made(folder: Path, *families: str) -> None:
    """Write tiny models of these families; in a process of its own, as it makes all tiny models wider."""
    only = [word for family in families for word in ("--only", family)]
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, FAMILIES, "make", folder, *only], env=here, check=True, capture_output=True
    )


def run(folder: Path, place: Path) -> dict[str, Any]:
    """What `benchmarks/vllm_families.py run` says of them."""
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
    """Within it vLLM's server speaks for the model in that folder; its address, which ends in `/v1`."""
    with socket.socket() as held:
        # Bound until the end and never listening: the port is vLLM's, which may share it, and nobody else's.
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
    """End a server, which ends what it started: by asking, and where that takes too long, without."""
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
