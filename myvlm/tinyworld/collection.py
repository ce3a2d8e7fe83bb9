"""The embedded models, registered through the entry point `myvlm.models` like those of any other package."""

from __future__ import annotations

from typing import Any

from myvlm.plugins.model_collections import ModelCollection
from myvlm.tinyworld import assets
from myvlm.tinyworld.language import IDENTIFIERS


def _smollm2() -> tuple[Any, Any]:
    from myvlm.tinyworld.smollm2.assemble import assemble  # imports transformers' models

    return assemble()


SHARED = {"rows": 4, "augment": False}

collection = ModelCollection(
    path=assets.path,
    encoder="tinyworld/clip",
    settings={  # measured on users that are in no benchmark; see benchmarks/RESULTS.md
        "llava": {**SHARED, "steps": "auto", "most_steps": 50, "learning_rate": 0.02, "regularizer": 0.03},
        "blip2": {**SHARED, "steps": 75, "learning_rate": 0.005, "regularizer": 0.4},
    },
    identifiers=IDENTIFIERS[:4],
    assembled={"smollm2": _smollm2},
)
