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
`tokens`, `hooks`, `generation`, `frozen`), with `concept`, `images` and `text` beside.

To learn takes more: what is asked for (`teach`, `dataset`, `settings`, `progress`), captions that the model
writes (`captions`, `noun_phrases`, `generation`), a head that is found by its kind, fitted, calibrated and
can be corrected later (`heads/base`, `plugins`, `head`, `fit`, `localize`, `calibration`, `examples`), the
steps in few operations (`optimise`, `concept_optimizer`, `view_cache`, `prefix_cache`, `fused`, `attention`),
and what comes of it (`embedding`, `concept`). These files hold some 11,000 lines, more than 24 of 400 can.

What might be fewer files and is not, since it would be none the simpler to read:
- `prompts` and `hooks` would make one of 384 lines, and change apart: text, and what happens in the model.
- `batches`, `noun_phrases` and `model_collections` are small, and have users of their own: the album and the
  command line; speaking and the evaluation; loading and encoders. Nor does asking a collection once, when a
  model is opened, spare the file: the encoder is found by its name at the first `learn`, by a collection too.
- `runtime/process` has the lock and the dtypes of an encoder, which is loaded when it is first used: by that
  `learn`. With encoders loaded by `MyVLM` nobody could speak without waiting for one.
- `features` and `encoders`, `library` and `gates`, `fit` and what it calls: each pair is longer than a file.
- `gates` and `gate` are on the way of `learn` since a library takes a concept only if its head can be scored
  with the others: it puts them into a gate, which the first caption then uses.
"""


def test_a_caption_and_a_lesson_cross_few_files(fresh: MyVLM, kit: FewShot) -> None:
    crossed = walks(fresh, kit)
    assert {"images.py", "backbones/base.py"} <= set(crossed["caption"].files) & set(crossed["learn"].files)
    assert len(crossed["caption"].files) <= CAPTION, str(crossed["caption"])
    assert len(crossed["learn"].files) <= LEARN, str(crossed["learn"])
