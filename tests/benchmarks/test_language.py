"""The language figures of recall.py."""

from __future__ import annotations

from random import Random

from language.replies import degenerate, parrots, with_category
from language.wordings import fits, names_it, unseen_question, wordings_summary
from language.written import written
from tally import Tally

from myvlm.tinyworld import few_shot
from myvlm.tinyworld.language import REWORDINGS, caption
from myvlm.tinyworld.smollm2.english import as_sentence


def test_degenerate_replies_are_told_from_sound_ones() -> None:
    assert degenerate("sks.sks.sks.sks", "sks")
    assert degenerate("Skskies.", "sks")
    assert degenerate("", "sks")
    assert degenerate("Anna Lee.", "Anna Lee")
    assert degenerate("sks in the in in in", "sks")
    assert degenerate("sks on the beach and", "sks", ended=False)
    assert not degenerate("sks next to sks2 on the beach.", "sks")
    assert not degenerate("No.", "sks")


def test_a_parrot_says_a_training_caption_of_another_picture() -> None:
    kit = written(few_shot(0))
    captions = kit.captions()[0]
    assert parrots(captions[0].upper(), captions)
    assert not parrots(captions[0] + " too", captions)
    scene = kit.present[0]
    true = as_sentence(caption(scene, Random(0), {kit.look: kit.identifier}))
    assert fits(true, scene, kit)
    assert not fits(captions[0], scene, kit)


def test_a_name_beside_the_description_of_its_thing_is_not_said_of_it() -> None:
    kit = written(few_shot(0))
    scene = kit.present[0]
    true = as_sentence(caption(scene, Random(0), {kit.look: kit.identifier}))
    assert names_it(true, scene, kit)
    plain = as_sentence(caption(scene, Random(0)))
    assert not names_it(plain, scene, kit)
    assert not names_it(f"{plain[:-1]} next to {kit.identifier}.", scene, kit)


def test_the_category_stands_for_the_name_as_its_language_is_judged() -> None:
    assert with_category("sks by a dog. sks!", "sks", "mug") == "a mug by a dog. a mug!"


def test_unseen_questions_are_in_no_form_that_is_taught() -> None:
    kit = written(few_shot(0))
    taught = {q for own in kit.questions() for q, _ in own}
    asked = {unseen_question(kit, scene, Random(i)) for i, scene in enumerate(kit.present)}
    assert len({q for q, _ in asked}) > 3
    assert not {q for q, _ in asked} & taught
    first = {as_sentence(own[0].format(kit.identifier)) for own in REWORDINGS.values()}
    assert not {q for q, _ in asked} & first  # these wordings were trained


def test_recognition_weighs_there_and_not_there_alike() -> None:
    tally = Tally()
    for name, values in {
        "recognised_there": [1, 1], "recognised_look_alike": [0, 0], "recognised_nothing": [1, 0],
        "nll": [2.0, 4.0], "nll_plain": [2.0],
    }.items():  # fmt: skip
        tally.add(name, 0, values)
    figures = wordings_summary(tally)
    assert figures["recognition"] == 0.625
    assert figures["fluency"] == 1.5
