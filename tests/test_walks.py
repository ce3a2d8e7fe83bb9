"""The two walks stay short: few files lie between a call at the door and the frozen model."""

from __future__ import annotations

from myvlm import MyVLM
from myvlm.tinyworld import FewShot
from tests.support.walks import walks

CAPTION, LEARN = 19, 39
"""Files of the package, as `python -m tests.support.walks` prints them in order; they were 26 and 41, the
aims are 15 and 24. A new one needs a reason: each is one thought.

A caption asks what is said (`speaker`, `batches`, `addressing`), who is there (`library`, `gates`, `gate`,
`features`, `encoders`, `detections`) and how a frozen model is made to say it (`base`, `backbone`, `prompts`,
`tokens`, `hooks`, `generation`, `frozen`), with `concept`, `images` and `text` beside. What might still be
one file is not: `prompts` and `hooks` would make one of 384 lines, and change apart.

To learn takes more: what is asked for (`teach`, `dataset`, `settings`, `progress`), captions that the model
writes (`captions`, `noun_phrases`, `generation`), a head that is found by its kind, fitted, calibrated and
can be corrected later (`heads/base`, `plugins`, `head`, `fit`, `localize`, `calibration`, `examples`), the
steps in few operations (`optimise`, `concept_optimizer`, `view_cache`, `prefix_cache`, `fused`, `attention`),
and what comes of it (`embedding`, `concept`)."""


def test_a_caption_and_a_lesson_cross_few_files(fresh: MyVLM, kit: FewShot) -> None:
    crossed = walks(fresh, kit)
    assert {"images.py", "backbones/base.py"} <= set(crossed["caption"].files) & set(crossed["learn"].files)
    assert len(crossed["caption"].files) <= CAPTION, str(crossed["caption"])
    assert len(crossed["learn"].files) <= LEARN, str(crossed["learn"])
