"""Add a new kind of head to MyVLM from your own package: here one that compares mean colours.

The two classes below are all that a head needs. A package registers it by two lines in its `pyproject.toml`:

    [project.entry-points."myvlm.heads"]
    mean_colour = "my_package:MeanColourHead"

It is then used and saved like the built-in heads: `vlm.learn("sks", photos, kind="mean_colour")`. This head
is a toy; `myvlm.testing` describes what the checks verify.
"""

import numpy as np
from PIL import Image

from myvlm.errors import ConceptFileError, InputError
from myvlm.heads import GateScores, HeadMeta, register_head
from myvlm.heads.base import check_fitted
from myvlm.heads.fitted import take_tensor
from myvlm.images import load_images
from myvlm.testing import check_head


def mean_colours(photos):
    return np.stack([np.asarray(one.image, np.float64).mean((0, 1)) for one in photos])


class MeanColourHead:
    kind = "mean_colour"
    privacy = "The head holds one colour, the mean of all photos. It identifies nobody."

    def __init__(self, reach=60.0):
        self.reach = reach  # maximum distance from the photos' mean colour, in RGB levels

    gate_key = "mean colour"  # heads with equal keys share a gate

    def fit(self, images, negatives=None, *, category=None):
        if negatives is not None:
            load_images(negatives)  # not used, but invalid pictures raise
        self.colour_ = mean_colours(load_images(images)).mean(0).astype(np.float32)
        return self

    def score(self, images):
        scores = self.gate([self]).score(load_images(images))
        return [scores.at(picture, 0) for picture in range(len(scores.present))]

    def state(self):
        check_fitted(self, "colour_")
        own = {
            "kind": self.kind,
            "encoder": "none",
            "threshold": self.reach,
            "settings": {"reach": self.reach},
        }
        return HeadMeta(**own, calibration={}, figures={}), {"colour": self.colour_}

    @classmethod
    def from_state(cls, meta, tensors, *, device="cpu"):
        if set(meta.settings) != {"reach"}:
            raise ConceptFileError(
                "Wrong settings for a mean colour head.",
                got=meta.settings,
                expected="reach",
                fix="learn it again",
            )
        head = cls(**meta.settings)
        head.colour_ = take_tensor(tensors, "colour", 1)
        return head

    @classmethod
    def gate(cls, heads):
        if not heads:
            raise InputError("No heads to score.", got=0, expected="1 or more", fix="pass heads")
        for head in heads:
            check_fitted(head, "colour_")
        return MeanColourGate(np.stack([head.colour_ for head in heads]), np.array([h.reach for h in heads]))


class MeanColourGate:
    def __init__(self, colours, reach):
        self.colours, self.reach = colours, reach

    def score(self, photos):
        """Score loaded pictures with all heads at once: pictures × heads."""
        apart = np.linalg.norm(mean_colours(photos)[:, None] - self.colours, axis=-1) / self.reach
        likely = 1 / (1 + np.exp(np.clip(5 * (apart - 1), -30, 30)))
        nowhere = np.full((*likely.shape, 4), np.nan, np.float32)  # this head gives no boxes
        return GateScores(likely.astype(np.float32), apart <= 1, nowhere)


def pictures(*colours):
    return [Image.new("RGB", (24, 24), colour) for colour in colours]


register_head("mean_colour", MeanColourHead)
red, green = pictures("red", "firebrick"), pictures("lime", "limegreen")
names = ("crimson", "lawngreen", "blue")
head = MeanColourHead(120.0).fit(red)
for name, score in zip(names, head.score(pictures(*names)), strict=True):
    print(f"is {name} like red?".ljust(32), score.verdict)
for outcome in check_head(lambda: MeanColourHead(120.0), red, green, pictures(*names)):
    print(f"{outcome.check:32}", "passed" if outcome.passed else f"skipped: {outcome.skipped}")
