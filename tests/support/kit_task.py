"""A tiny task for evaluation kits: questions about pictures with and without a concept."""

from __future__ import annotations

from random import Random
from typing import Any

from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures
from myvlm.tinyworld.language import questions

CONCEPT = few_shot(0, tests=4)
CAPTION = "describe the picture ."


def documents(seen: bool) -> list[dict[str, Any]]:
    """Pictures, each with a question and the word that a correct answer contains.

    Args:
        seen: whether pictures show the concept and ask for a description; else they ask about other objects.
    """
    scenes = CONCEPT.present if seen else CONCEPT.other
    asked = []
    for number, (scene, picture) in enumerate(zip(scenes, pictures(scenes), strict=True)):
        about = [e for e in questions(scene, Random(number)) if "[refer]" not in e.prompt]
        pairs = [(CAPTION, CONCEPT.identifier)] if seen else [(e.prompt, e.answer) for e in about[:2]]
        asked += [{"image": picture, "question": question, "answer": answer} for question, answer in pairs]
    return asked
