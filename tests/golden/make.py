"""Write the golden concept folder of one format version; run once per version, then never again.

    python tests/golden/make.py

Concepts written by any release must load for ever, so these folders are frozen: a new `format_version` gets a
new folder next to the old ones. The numbers are small sums that can be checked by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from myvlm.concepts.concept import Concept
from myvlm.concepts.disk.record import FORMAT_VERSION
from myvlm.concepts.embedding import Embedding
from myvlm.heads.base import HeadMeta
from myvlm.heads.examples import CorrectedPicture, Examples
from myvlm.heads.objects.head import ObjectHead

HERE = Path(__file__).parent


def golden_concept() -> Concept:
    """A concept of exact numbers: powers of two and small integers."""
    meta = HeadMeta(
        kind="object",
        encoder="ViT-B-32@openai",
        threshold=0.75,
        calibration={"slope": 2.0},
        settings={"crops": "auto", "false_alarm_rate": 0.01, "C": 10.0, "seed": 0},
        figures={"photos": 4, "left_out_found": 1.0},
    )
    tensors = {
        "coef": np.array([0.5, -0.25, 2.0], np.float32),
        "intercept": np.array([-1.5], np.float32),
        "witness": np.array([0.0, 0.0, 1.0], np.float32),
    }
    embeddings = {
        "llava-hf/llava-1.5-7b-hf": Embedding(
            np.arange(8, dtype=np.float32).reshape(2, 4) / 8,
            norm="image",
            prompt="Describe the image.",
            fingerprint="a1b2",
            settings={"steps": 100, "learning_rate": 1.0},
            figures={"loss": 0.25},
        ),
        "tinyworld/llava": Embedding(
            np.array([[1.0, -1.0]], np.float32), norm="image", prompt="What is this?", fingerprint="c3d4"
        ),
    }
    recipe = {"captions": [["sks on a désk"]], "photos": 4}
    return Concept(
        "ohwx", "mug", ObjectHead.from_state(meta, tensors), embeddings, recipe, kind="object", spoken="sks"
    )


def corrected_concept() -> Concept:
    """The same concept with stored examples, corrected by one picture."""
    concept = golden_concept()
    assert isinstance(concept.head, ObjectHead)
    start = {"coef": np.array([1.0, 0.5, 0.25], np.float32), "intercept": np.array([-1.0], np.float32)}
    photos = np.arange(12, dtype=np.float16).reshape(2, 2, 3) / 8
    others = np.array([[0.5, 0.0, -0.5]], np.float16)
    said = CorrectedPicture(picture="dèsk.jpg", digest="0f", present=False, box=(1.0, 2.0, 30.0, 40.0))
    rows = np.array([[-1.0, 0.25, 0.0], [0.5, 0.5, 0.5]], np.float16)
    learned_from = Examples.of(photos, others, start=start, threshold=0.5)
    concept.head.examples_ = learned_from.with_correction(said, rows)
    return concept


if __name__ == "__main__":
    golden_concept().save(HERE / f"format-{FORMAT_VERSION}")
    corrected_concept().save(HERE / f"corrected-{FORMAT_VERSION}")
