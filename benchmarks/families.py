"""Every family against the contract of backbones, and what a concept costs: a table, then one JSON line.

    python benchmarks/families.py [--only Qwen Gemma] [--calls 15]

The models are the tests' tiny random ones, with their real processors: what is measured is that the
mechanism is right, and its own cost, not the quality of anybody's captions. `failed` counts the checks that
raised; the exit code is 1 if there are any. Milliseconds are of one core, so that other work on the machine
does not count: medians of calls in turn, plain and with one row, for a picture and `TOKENS` new tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest import SkipTest

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from myvlm.backbones import Backbone, ConceptRows, backbone_for
from myvlm.testing import BACKBONE_CHECKS, BackboneCase
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_families import FAMILIES

TOKENS = 8
ALL = {
    **FAMILIES,
    "BLIP-2, OPT": lambda: tiny_blip2(language="opt"),
    "BLIP-2, T5": lambda: tiny_blip2(language="t5"),
}
PASSED, SKIPPED, FAILED = "+", "o", "X"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--only", nargs="*", default=[], help="families whose names hold one of these")
    options.add_argument("--calls", type=int, default=15, help="timed calls of each kind")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = [name for name in ALL if not chosen.only or any(part in name for part in chosen.only)]
    for number, check in enumerate(BACKBONE_CHECKS, start=1):
        print(f"{number:3}  {check.__name__}: {(check.__doc__ or '').splitlines()[0]}")
    print(f"\n{PASSED} passed, {SKIPPED} nothing to check, {FAILED} failed\n")
    columns = " ".join(f"{number:2}" for number in range(1, len(BACKBONE_CHECKS) + 1))
    print(f"{'family':20} {columns}   {'plain ms':>9} {'with a row':>10} {'more':>7}")
    failures: list[str] = []
    costs: list[float] = []
    for name in names:
        backbone = backbone_for(*ALL[name]())
        marks = [mark(check, BackboneCase(backbone, shapes()), name, failures) for check in BACKBONE_CHECKS]
        plain, taught = cost(backbone, chosen.calls)
        costs.append(taught - plain)
        row = " ".join(f"{one:>2}" for one in marks)
        print(f"{name:20} {row}   {plain:9.1f} {taught:10.1f} {taught - plain:+7.1f}", flush=True)
    for failure in failures:
        print(failure)
    figures = {
        "families": len(names),
        "checks": len(names) * len(BACKBONE_CHECKS),
        "failed": len(failures),
        "more_ms_median": round(median(costs), 2),
    }
    print(json.dumps(figures))
    return int(bool(failures))


def shapes() -> list[Image.Image]:
    """A square, a wide and a tall picture."""
    sizes = [(40, 40), (70, 30), (30, 64)]
    return [picture.resize(size) for picture, size in zip(pictures(3), sizes, strict=True)]


def mark(check: Callable[[BackboneCase], None], case: BackboneCase, name: str, failures: list[str]) -> str:
    """Run one check; a failure is told, and does not stop the others."""
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
    """Milliseconds of one core for a plain call and for one with a concept, in turn: both see one machine."""
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
