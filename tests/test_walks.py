"""A call runs through few files between the public function and the frozen model."""

from __future__ import annotations

from myvlm import MyVLM
from myvlm.tinyworld import FewShot
from tests.support.walks import walks

CAPTION, LEARN = 19, 39
"""Number of package files that each call runs through; `python -m tests.support.walks` prints them in order.
They were 26 and 41; the aims are 15 and 24. A new file needs a reason: each is one idea.

A caption finds the prompt (`speaker`, `batches`, `addressing`), detects concepts (`library`, `gates`, `gate`,
`features`, `encoders`, `detections`) and runs the frozen model with their rows (`base`, `backbone`,
`prompts`, `tokens`, `hooks`, `generation`, `frozen`); besides it uses `concept`, `images` and `text`.

Learning needs more: its inputs (`teach`, `dataset`, `settings`, `progress`), captions written by the model
(`captions`, `noun_phrases`, `generation`), a head that is looked up by kind, fitted, calibrated and can be
corrected later (`heads/base`, `plugins`, `head`, `fit`, `localize`, `calibration`, `examples`), fast steps
(`optimise`, `concept_optimizer`, `view_cache`, `prefix_cache`, `fused`, `attention`), and the results
(`embedding`, `concept`). These files have some 11,000 lines, more than 24 files of 400 lines can hold.

Merging these files would not make them easier to read:
- `prompts` and `hooks` together would have 384 lines, and change for different reasons: text, and hooks.
- `batches`, `noun_phrases` and `model_collections` are small and have other users too: the album and the
  command line; speaking and evaluation; loading and encoders. Asking a collection once, when a model is
  opened, would not avoid the file: the first `learn` looks up the encoder, by a collection too.
- `runtime/process` has the lock and dtypes of an encoder, which is loaded at its first use, by that `learn`.
  If `MyVLM` loaded encoders, captions without concepts would wait for one.
- `features` and `encoders`, `library` and `gates`, `fit` and its callees: each pair is too long for one file.
- `gates` and `gate` are part of `learn` because a library accepts a concept only if its head can be scored
  with the others: it adds the head to a gate, which the first caption then uses.
"""


def test_a_caption_and_a_lesson_cross_few_files(fresh: MyVLM, kit: FewShot) -> None:
    crossed = walks(fresh, kit)
    assert {"images.py", "backbones/base.py"} <= set(crossed["caption"].files) & set(crossed["learn"].files)
    assert len(crossed["caption"].files) <= CAPTION, str(crossed["caption"])
    assert len(crossed["learn"].files) <= LEARN, str(crossed["learn"])
