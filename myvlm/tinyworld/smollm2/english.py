"""Rewrite tinyworld's spaced lower-case texts as ordinary English."""

from __future__ import annotations

import re
from collections.abc import Sequence

from myvlm.tinyworld.language import IDENTIFIERS, noun_phrase
from myvlm.tinyworld.world.scenes import Thing

SPOKEN_BY = frozenset({"tinyworld/smollm2"})
"""Tinyworld's backbones that take ordinary sentences, as their language model was pretrained by others."""


def as_sentence(text: str) -> str:
    """Return the text with signs joined to words, a capital at the start unless that is an identifier, and a
    sign at the end.

    >>> as_sentence("on the beach , a red mug ."), as_sentence("sks at night ."), as_sentence("no")
    ('On the beach, a red mug.', 'sks at night.', 'No.')
    """
    joined = re.sub(r" +([.,?!:;])", r"\1", text.strip())
    if joined.split()[0].strip(".,?!:;").lower() not in IDENTIFIERS:
        joined = joined[0].upper() + joined[1:]
    return joined if joined[-1] in ".?!" else f"{joined}."


def listed(phrases: Sequence[str]) -> str:
    """Return phrases joined by commas and a last "and".

    >>> listed(["a mug", "a dog", "a lamp"])
    'a mug, a dog and a lamp'
    """
    return " and ".join(one for one in (", ".join(phrases[:-1]), phrases[-1]) if one)


def short_phrase(thing: Thing) -> str:
    """Return a noun phrase with colour and category only."""
    words = noun_phrase(thing.look, accent=False).replace(f"{thing.look.pattern} ", "")
    return words.replace("a orange", "an orange")
