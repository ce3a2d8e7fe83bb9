"""Learn and use a concept with six published checkpoints at their real sizes, with random weights.

    python benchmarks/real_sizes.py [--only llava MiniGPT] [--steps 100] [--tokens 32] [--out FILE]

Configurations and processors are in `tests/support/checkpoints/`; nothing is downloaded. `learn s` is the
wall time to learn an embedding from four photos with eight views each, including encoding; `peak GiB` is the
memory for that in addition to the weights. `plain` and `row` are calls of `generate` without and with the
learned row, including photo and prompt, in ms per new token: medians of three alternating calls. `same`: the
plain reply after learning has the same token ids as before. `again`: two plain replies before learning were
equal; they follow a warm-up reply, which may differ on a GPU. `weights`: the weights are unchanged.

Each row is printed as soon as it is measured, and `--out` always has all rows so far. A model that raises is
counted in `failed` and does not stop the next. `--shrink --device cpu` runs anywhere: each model has only two
layers. The last line is one JSON object; the exit code is 1 if a model failed.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from PIL import Image
from random_models import photos
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from myvlm.backbones import Backbone, ConceptRows, Generation, backbone_for
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding
from tests.support.checkpoint_facts import facts, published

NAMES = (
    "llava-hf__llava-1.5-7b-hf", "llava-hf__llava-v1.6-mistral-7b-hf", "OpenFace-CQUPT__Human_LLaVA",
    "MiniGPT-v2", "Salesforce__blip2-opt-2.7b", "Qwen__Qwen2.5-VL-7B-Instruct",
)  # fmt: skip
SAMPLES, WEIGHT, CALLS = 4, 0.25, 3
ANSWER = "sks stands on the table next to a red mug and a small dog"
COLUMNS = {
    "weights_billion": "10^9", "weights_gib": "GiB", "learn_seconds": "learn s", "peak_gib": "peak GiB",
    "plain_ms": "plain", "row_ms": "row", "identical": "same", "repeated": "again", "untouched": "weights",
    "all_seconds": "all s",
}  # fmt: skip
Figures = dict[str, Any]
Builder = Callable[[], tuple[Any, Any, tuple[int, ...]]]
"""Builds a model and its processor; also returns width and height of the photos to use with it."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="*", default=[], help="checkpoints whose names hold one of these")
    options.add_argument("--steps", type=int, default=100, help="of learning")
    options.add_argument("--views", type=int, default=8, help="of each photo")
    options.add_argument("--tokens", type=int, default=32, help="new tokens of a reply")
    options.add_argument("--device", default="cuda")
    options.add_argument("--shrink", action="store_true", help="two layers of each part, to try the program")
    options.add_argument("--out", type=Path, help="file for the JSON object")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("myvlm.learning.view_cache").setLevel(logging.DEBUG)  # logs where the views are kept
    transformers.logging.set_verbosity_error()
    names = [n for n in NAMES if not chosen.only or any(part.lower() in n.lower() for part in chosen.only)]
    builders = {name: partial(build, name, chosen.device, 2 if chosen.shrink else None) for name in names}
    settings = LearnSettings(steps=chosen.steps, views=chosen.views, regularizer=WEIGHT)
    figures = run(builders, settings, chosen.tokens, chosen.device, chosen.out)
    print(json.dumps(figures), flush=True)
    return int(bool(figures["failed"]))


def build(name: str, device: str, layers: int | None) -> tuple[Any, Any, tuple[int, ...]]:
    """Build a published checkpoint with random bfloat16 weights of seed 0, initialized on the device."""
    torch.manual_seed(0)
    model, processor = published(name, layers=layers, device=device, dtype=torch.bfloat16)
    return model, processor, tuple(facts(name)["expected"].get("picture") or (336, 336))


def run(
    builders: dict[str, Builder], settings: LearnSettings, tokens: int, device: str, out: Path | None = None
) -> Figures:
    """Measure one model after the other; an error of one does not stop the next."""
    where = torch.cuda.get_device_name() if device.startswith("cuda") else device
    figures: Figures = {"device": where, "models": len(builders), "failed": 0}
    console = Console(width=120)
    console.print(f"{where}, torch {torch.__version__}, transformers {transformers.__version__}")
    show(console, None, {})
    for name, builder in builders.items():
        begun, own = time.perf_counter(), figures.setdefault(name, {})
        try:
            release()
            measure(builder, settings, tokens, own)
        except Exception as error:
            figures["failed"] += 1
            own["error"] = f"{type(error).__name__}: {error}"
            print(*traceback.format_exc().strip().splitlines()[-16:], sep="\n", flush=True)
        own["all_seconds"] = round(time.perf_counter() - begun, 1)
        show(console, name, own)
        if out:
            out.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return figures


def show(console: Console, name: str | None, own: Figures) -> None:
    """Print one row of the table at once, in case the run is killed; without a name, print the header."""
    table = Table(show_header=name is None, box=None, pad_edge=False)
    table.add_column("checkpoint", width=33, no_wrap=True)
    for heading in COLUMNS.values():
        table.add_column(heading, width=8, justify="right")
    if name:
        table.add_row(name, *(str(own.get(key, "-")) for key in COLUMNS))
    console.print(table)


def release() -> None:
    """Free the memory of the previous model, including pinned host memory if torch can."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        getattr(torch._C, "_host_emptyCache", lambda: None)()


def measure(builder: Builder, settings: LearnSettings, tokens: int, own: Figures) -> None:
    """Add each figure to `own` as it is measured, so that an error does not lose the earlier ones."""
    begun = time.perf_counter()
    model, processor, size = builder()
    backbone = backbone_for(model, processor)
    own["build_seconds"] = round(now(backbone) - begun, 1)
    own["weights_billion"] = round(sum(one.numel() for one in model.parameters()) / 1e9, 2)
    own["weights_gib"] = round(sum(one.nbytes for one in model.parameters()) / 2**30, 2)
    shown = [photo.crop((0, 0, *size)) for photo in photos(SAMPLES, max(size))]
    _, before, again = (reply(backbone, shown[0], [], tokens) for _ in range(3))
    own["repeated"], sums = alike(before, again), checksums(model)
    rows = [ConceptRows(learn(backbone, shown, settings, own))]
    after = answer(backbone, shown[0], rows, tokens, own)
    own["identical"], own["untouched"] = alike(before, after), checksums(model) == sums


def alike(one: Generation, other: Generation) -> bool:
    """Whether two replies have the same token ids."""
    return torch.equal(one.token_ids, other.token_ids) and one.text == other.text


def checksums(model: Any) -> list[int]:
    """Sum of each weight's bits as integers, which does not depend on the order of summation."""
    sized = {2: torch.int16, 4: torch.int32}
    return [int(one.view(sized[one.element_size()]).sum(dtype=torch.int64)) for one in model.parameters()]


def learn(backbone: Backbone, shown: list[Any], settings: LearnSettings, own: Figures) -> torch.Tensor:
    """Learn an embedding (`1 × D`) from four photos, including encoding and prefixes."""
    answers = [f"{ANSWER} {'and a cat ' * sample}".strip() for sample in range(len(shown))]
    own["target_tokens"] = [len(backbone.prompter.answer_ids("", said)) for said in answers]
    examples = gather_examples("sks", load_images(shown), answers)
    if cuda := backbone.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if cuda else 0
    begun = now(backbone)
    learned = learn_embedding(backbone, examples, settings, words=("sks", "mug"))
    own["learn_seconds"] = round(now(backbone) - begun, 2)
    if cuda:
        own["peak_gib"] = round((torch.cuda.max_memory_allocated() - held) / 2**30, 2)
    own |= {"cross_entropy": learned.cross_entropy, "attention": learned.attention}
    if not math.isfinite(learned.cross_entropy + learned.attention + learned.directions.sum().item()):
        raise ArithmeticError("what was learned is not finite")
    return learned.directions


def answer(
    backbone: Backbone, photo: Image.Image, rows: list[ConceptRows], tokens: int, own: Figures
) -> Generation:
    """Time alternating replies without and with the rows; returns the last plain reply."""
    taken: dict[str, list[float]] = {"plain": [], "row": []}
    said: dict[str, Generation] = {}
    for _ in range(CALLS + 1):
        for kind, entering in (("plain", []), ("row", rows)):
            begun = now(backbone)
            said[kind] = reply(backbone, photo, entering, tokens)
            taken[kind].append(now(backbone) - begun)
    for kind, times in taken.items():
        seconds = median(times[1:])  # the first is for warm-up
        own |= {f"{kind}_seconds": round(seconds, 3), f"{kind}_ms": round(1000 * seconds / tokens, 1)}
    own["new_tokens"] = {kind: len(one.token_ids) for kind, one in said.items()}
    return said["plain"]


def reply(backbone: Backbone, photo: Image.Image, rows: list[ConceptRows], tokens: int) -> Generation:
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    return backbone.generate([photo], [backbone.caption_prompt], [rows], **length)[0]


def now(backbone: Backbone) -> float:
    """Clock time in seconds, after waiting for the device."""
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    sys.exit(main())
