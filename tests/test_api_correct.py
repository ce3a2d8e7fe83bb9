"""`vlm.correct`: from a correction of a picture to the detections in later pictures."""

from __future__ import annotations

import numpy as np
import pytest

from myvlm import MyVLM
from myvlm.concepts.concept import Concept
from myvlm.errors import UnknownConceptError
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught


@pytest.fixture
def speaking(fresh: MyVLM, taught: Taught) -> MyVLM:
    fresh.concepts.add(Concept.load(taught.folder))
    return fresh


def test_what_is_corrected_away_gets_the_plain_words_bit_for_bit(
    speaking: MyVLM, taught: Taught, unchanged: None
) -> None:
    [picture, other] = pictures(taught.kit.present[:2])
    with speaking.generic() as plain:
        said = plain.caption(picture)
    assert taught.word in str(speaking.caption(picture))
    correction = speaking.correct(picture, taught.word, present=False)
    assert correction.held
    reply = speaking.caption(picture)
    assert reply.seen == ()
    assert (reply.text, reply.token_ids) == (said.text, said.token_ids)
    assert np.mean([one.after >= 0.5 for one in correction.photos]) == 1
    correction.undo()
    assert taught.word in str(speaking.caption(picture))
    assert taught.word in str(speaking.caption(other))


def test_what_was_missed_is_named(speaking: MyVLM, taught: Taught) -> None:
    [picture] = pictures(taught.kit.look_alike[:1])
    assert speaking.caption(picture).seen == ()
    assert speaking.correct(picture, taught.word, present=True).held
    assert speaking.caption(picture).seen == (taught.word,)
    with pytest.raises(UnknownConceptError, match="gone"):
        speaking.correct(picture, "gone", present=True)
