"""Figures of a learned concept under instructions that it was not learned with, and under questions.

Used by `recall.py` for language models trained by others; tinyworld's own models know too few words.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tally import Tally

from language.replies import degenerate, likelihood, parrots, with_category
from myvlm import MyVLM, Reply
from myvlm.text import contains_word
from myvlm.tinyworld import FewShot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.language import REWORDINGS, about
from myvlm.tinyworld.said import said_of_it
from myvlm.tinyworld.smollm2.english import as_sentence
from myvlm.tinyworld.truth import context_right, same_answer
from myvlm.tinyworld.world.scenes import Scene

INSTRUCTIONS = (
    "Please describe this photo.", "What does the photo show?", "Give me a caption for this.",
    "Say what can be seen here.",
)  # fmt: skip
"""Instructions under which no caption is learned, and which the base model was not trained with."""

LONGEST = 64
"""Maximum number of tokens of a reply, the library's default."""

FIGURES = (
    "said_of_it", "own_words", "unseen_wording", "unseen_question", "degenerate", "parroting", "fluency",
    "recognised_there", "recognised_look_alike", "recognised_nothing",
)  # fmt: skip


def measure_wordings(
    user: MyVLM, kit: FewShot, replies: Sequence[Reply], plain: Sequence[Reply], seed: int, tally: Tally
) -> None:
    """Add the figures of a user who has learned the concept.

    Args:
        replies, plain: captions of `kit.present` with the concept and by the plain model.
    """
    name, photos = kit.identifier, pictures(kit.present)
    for number, instruction in enumerate(INSTRUCTIONS):
        part = photos[number :: len(INSTRUCTIONS)]
        said = user.caption(part, prompt=instruction) if part else []
        tally.add("unseen_wording", seed, [contains_word(r.text, name) for r in said])
        tally.add("degenerate", seed, [is_degenerate(r, name) for r in said])
    tally.add("unseen_question", seed, answered(user, kit, seed))
    tally.add("degenerate", seed, [is_degenerate(r, name) for r in replies])
    captions = [caption for own in kit.captions() for caption in own]
    pairs = list(zip(replies, kit.present, strict=True))
    tally.add("said_of_it", seed, [names_it(r.text, s, kit) for r, s in pairs])
    tally.add("own_words", seed, [r.token_ids == p.token_ids for r, p in zip(replies, plain, strict=True)])
    tally.add("parroting", seed, [parrots(r.text, captions) and not fits(r.text, s, kit) for r, s in pairs])
    ours = [with_category(r.text, name, kit.category) for r in replies]
    tally.add("nll", seed, likelihood(user.backbone, ours))
    tally.add("nll_plain", seed, likelihood(user.backbone, [r.text for r in plain]))
    asked = f"Is {name} in the picture?"
    for figure, scenes, right in (
        ("recognised_there", kit.present, "yes"),
        ("recognised_look_alike", kit.look_alike, "no"),
        ("recognised_nothing", kit.other, "no"),
    ):
        said = user.ask(pictures(scenes), asked)
        tally.add(figure, seed, [r.text.lower().startswith(right) for r in said])


def answered(user: MyVLM, kit: FewShot, seed: int) -> list[bool]:
    """Whether the answer is correct, for one question per picture about the concept, in an untrained
    wording."""
    random, right = Random(f"unseen question {kit.identifier} {seed}"), []
    for scene, photo in zip(kit.present, pictures(kit.present), strict=True):
        prompt, answer = unseen_question(kit, scene, random)
        right.append(same_answer(user.ask(photo, prompt).text, answer))
    return right


def unseen_question(kit: FewShot, scene: Scene, random: Random) -> tuple[str, str]:
    """A question about the concept in a wording that is not used for learning, and its answer.

    >>> from myvlm.tinyworld import few_shot
    >>> kit = few_shot(0)
    >>> unseen_question(kit, kit.present[0], Random(0))[0]
    'What has ulmo on it?'
    """
    thing = scene.find(kit.look)
    assert thing is not None  # only for `kit.present`
    asked = []
    for exchange in about(thing, scene, kit.identifier, random):
        for form, others in REWORDINGS.items():
            if exchange.prompt == form.format(kit.identifier) and others[1:]:
                asked.append((random.choice(others[1:]).format(kit.identifier), exchange.answer))
    prompt, answer = random.choice(asked)
    return as_sentence(prompt), as_sentence(answer)


def is_degenerate(reply: Reply, name: str) -> bool:
    """Whether a reply degenerates. Without the name it may be short, as nothing was detected."""
    return degenerate(reply.text, name, ended=len(reply.token_ids) < LONGEST)


def names_it(text: str, scene: Scene, kit: FewShot) -> bool:
    """Whether a caption uses the name for the concept itself, not beside a description of it.

    >>> from myvlm.tinyworld import few_shot
    >>> from myvlm.tinyworld.language import caption
    >>> kit = few_shot(0)
    >>> said = [caption(kit.present[0], Random(0), names) for names in ({kit.look: kit.identifier}, {})]
    >>> [names_it(as_sentence(text), kit.present[0], kit) for text in said]
    [True, False]
    """
    name = kit.identifier
    return contains_word(text, name) and said_of_it(text, name, scene, {name: kit.look})


def fits(text: str, scene: Scene, kit: FewShot) -> bool:
    right, total = context_right(text, scene, kit.look)
    return right == total


def wordings_summary(tally: Tally) -> dict[str, float]:
    """The figures in order; `fluency` is a ratio of likelihoods, `recognition` the weighted accuracy."""
    rates = {name: tally.rate(name) for name in FIGURES if name in tally.outcomes}
    absent = (rates["recognised_look_alike"] + rates["recognised_nothing"]) / 2
    rates["fluency"] = tally.rate("nll") / tally.rate("nll_plain")
    rates["recognition"] = (rates["recognised_there"] + absent) / 2
    return {name.replace("look_alike", "lookalike"): round(value, 4) for name, value in rates.items()}
