"""The two walks stay short: few files lie between a call at the door and the frozen model."""

from __future__ import annotations

from myvlm import MyVLM
from myvlm.tinyworld import FewShot
from tests.support.walks import walks

CAPTION, LEARN = 23, 43
"""Files of the package; they were 26 and 41, the aims are 15 and 24. A new hop needs a reason: `speaker.py`,
what a model says, beside `api.py`, what it learns; `addressing.py`, words for what is not learned;
`notebook.py`, the small photos of a concept's card; `results.py`, the grid of a list;
`batches.py`, the others where one picture cannot be used; `fused.py`, learning's layers in few operations;
`heads/examples.py`, what a head is corrected by later; `embedding.py`, beside `concept.py`."""


def test_a_caption_and_a_lesson_cross_few_files(fresh: MyVLM, kit: FewShot) -> None:
    crossed = walks(fresh, kit)
    assert {"images.py", "backbones/base.py"} <= set(crossed["caption"]) & set(crossed["learn"])
    assert len(crossed["caption"]) <= CAPTION, crossed["caption"]
    assert len(crossed["learn"]) <= LEARN, crossed["learn"]
