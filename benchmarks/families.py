"""Check every image-text-to-text model type of transformers against the backbone contract; table and JSON.

    python benchmarks/families.py [--only Qwen gemma4] [--calls 15]

The models are tiny random ones with their real processors, built offline: the benchmark measures whether the
mechanism is correct and what it costs, not the quality of captions. A type is

* proven: a tiny model of it passes the whole contract;
* accepted: the general adapter has no reason to refuse it, but no tiny model is built here;
* refused: it cannot work, or a tiny model was tried and refused; the reason is shown.

`failed` counts the checks that raised; the exit code is 1 if there are any. Milliseconds are CPU time, so
that other work on the machine does not count: medians of alternating calls, plain and with one row, for a
picture and `TOKENS` new tokens.
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import SkipTest

import torch
import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KINDS

sys.path.insert(0, str(Path(__file__).parents[1]))
from myvlm.backbones import Backbone, ConceptRows, backbone_for
from myvlm.errors import MyVLMError
from myvlm.testing import BACKBONE_CHECKS, BackboneCase
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import tiny_blip2, tiny_instructblip
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_recipes import TYPES

TOKENS = 8
ALL = {
    **FAMILIES,
    "BLIP-2, OPT": lambda: tiny_blip2(language="opt"),
    "BLIP-2, T5": lambda: tiny_blip2(language="t5"),
    "InstructBLIP": tiny_instructblip,
    **TYPES,
}
PASSED, SKIPPED, FAILED = "+", "o", "X"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="*", default=[], help="models whose names hold one of these")
    options.add_argument("--calls", type=int, default=15, help="timed calls of each kind")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # the general adapter logs a notice for each model
    names = [name for name in ALL if not chosen.only or any(part in name for part in chosen.only)]
    for number, check in enumerate(BACKBONE_CHECKS, start=1):
        print(f"{number:3}  {check.__name__}: {(check.__doc__ or '').splitlines()[0]}")
    print(f"\n{PASSED} passed, {SKIPPED} nothing to check, {FAILED} failed\n")
    columns = " ".join(f"{number:2}" for number in range(1, len(BACKBONE_CHECKS) + 1))
    print(f"{'model':24} {'type':22} {'adapter':10} {columns}   {'plain ms':>9} {'with row':>10} {'more':>7}")
    failures: list[str] = []
    costs: list[float] = []
    tried: dict[str, str] = {}
    checks = 0
    for name in names:
        try:
            model, processor = ALL[name]()
        except Exception as error:
            failures.append(f"{name}: its tiny model cannot be built: {type(error).__name__}: {error}")
            continue
        kind = model.config.model_type
        try:
            backbone = backbone_for(model, processor)
        except MyVLMError as error:
            tried.setdefault(kind, f"refused ({reason(error)})")
            print(f"{name:24} {kind:22} {tried[kind]}", flush=True)
            continue
        before = len(failures)
        marks = [mark(check, BackboneCase(backbone, shapes()), name, failures) for check in BACKBONE_CHECKS]
        checks += len(marks)
        if tried.get(kind) != "failed":
            tried[kind] = "proven" if len(failures) == before else "failed"
        plain, taught = cost(backbone, chosen.calls)
        costs.append(taught - plain)
        row = " ".join(f"{one:>2}" for one in marks)
        print(
            f"{name:24} {kind:22} {backbone.family[:10]:10} {row}   {plain:9.1f} {taught:10.1f} "
            f"{taught - plain:+7.1f}",
            flush=True,
        )
    for failure in failures:
        print(failure)
    figures = {
        "families": len(names),
        "checks": checks,
        "failed": len(failures),
        "more_ms_median": round(median(costs), 2) if costs else None,
    }
    if not chosen.only:
        stated = {kind: tried.get(kind) or untried(kind) for kind in KINDS}
        print(f"\n{'type':26} in transformers {transformers.__version__}")
        for kind, state in stated.items():
            print(f"{kind:26} {state}")
        for state in ("proven", "accepted", "refused"):
            figures[state] = sum(one.startswith(state) for one in stated.values())
    print(json.dumps(figures))
    return int(bool(failures))


def reason(error: MyVLMError) -> str:
    """An error's reason in one line."""
    found = next((line for line in str(error).splitlines() if line.strip().startswith("got:")), str(error))
    return " ".join(found.removeprefix("  got:").split())[:160]


def untried(kind: str) -> str:
    """Verdict on a type without a tiny model, from its class alone."""
    named = KINDS[kind]
    model: Any = getattr(transformers, named if isinstance(named, str) else named[0])
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return "refused (its forward takes no `mm_encoder_outputs`)"
    if not hasattr(model, "generate") or not issubclass(model, transformers.GenerationMixin):
        return "refused (it does not generate one token after another)"
    return "accepted"


def shapes() -> list[Image.Image]:
    """A square, a wide and a tall picture."""
    sizes = [(40, 40), (70, 30), (30, 64)]
    return [picture.resize(size) for picture, size in zip(pictures(3), sizes, strict=True)]


def mark(check: Callable[[BackboneCase], None], case: BackboneCase, name: str, failures: list[str]) -> str:
    """Run one check and return its mark; a failure is recorded and does not stop the others."""
    try:
        check(case)
    except SkipTest as reason:
        if str(reason) in case.lacks.values():
            return SKIPPED
        failures.append(f"{name}: {check.__name__}: skipped, and not declared: {reason}")
        return FAILED
    except Exception as error:
        failures.append(f"{name}: {check.__name__}: {type(error).__name__}: {error}")
        return FAILED
    return PASSED


def cost(backbone: Backbone, calls: int) -> tuple[float, float]:
    """CPU milliseconds of a plain call and of one with a concept, alternating so that both run alike."""
    image, prompt = shapes()[:1], [backbone.caption_prompt]
    kinds: list[list[list[ConceptRows]]] = [[[]], [[ConceptRows(torch.ones(1, backbone.dim))]]]
    taken: list[list[float]] = [[], []]
    for call in range(calls + 1):
        for kind, rows in enumerate(kinds):
            start = time.process_time()
            backbone.generate(image, prompt, rows, max_new_tokens=TOKENS, min_new_tokens=TOKENS)
            if call:  # the first warms up
                taken[kind].append((time.process_time() - start) * 1000)
    return median(taken[0]), median(taken[1])


if __name__ == "__main__":
    sys.exit(main())
