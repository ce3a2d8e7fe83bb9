"""Figures of one reply: whether it degenerates or copies a training caption, and its likelihood."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from myvlm.backbones import Backbone
from myvlm.text import replace_words

RUN = 3
"""A reply that repeats a word this many times in a row is degenerate."""


def degenerate(text: str, identifier: str, *, ended: bool = True) -> bool:
    """Whether a reply repeats a word or the name three times in a row, is only the name, or does not end.

    >>> [degenerate(t, "sks") for t in ("sks.sks.sks", "Sks.", "a dog dog dog", "Skskies.", "sks on a mat.")]
    [True, True, True, True, False]
    >>> degenerate("sks on a", "sks", ended=False)
    True
    """
    said = re.findall(r"[\w'-]+", text.lower())
    name = identifier.lower()
    running = any(len(set(said[i : i + RUN])) == 1 for i in range(len(said) - RUN + 1))
    # The name inside a longer word that is the whole reply: it was started and never finished.
    only = not said or (len(said) == 1 and said[0].startswith(name)) or said == name.split()
    return not ended or running or only


def parrots(text: str, captions: Sequence[str]) -> bool:
    """Whether a reply equals one of the captions, word for word.

    >>> parrots("Sks on a mat", ["sks on a mat."])
    True
    """
    return _plain(text) in {_plain(caption) for caption in captions}


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w'-]+", text.lower()))


@torch.no_grad()
def likelihood(backbone: Backbone, texts: Sequence[str]) -> list[float]:
    """Mean negative log-likelihood per token of each text, by the language model alone, without a picture."""
    tokenizer, found = backbone.processor.tokenizer, []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        begun = torch.tensor([[tokenizer.bos_token_id, *ids]], device=backbone.device)
        logits = backbone.model(input_ids=begun).logits[0, :-1]
        found.append(float(F.cross_entropy(logits.float(), begun[0, 1:])))
    return found


def with_category(text: str, identifier: str, category: str) -> str:
    """The reply with the identifier replaced by the category.

    >>> with_category("sks on a mat.", "sks", "mug")
    'a mug on a mat.'
    """
    return replace_words(text, {identifier: f"a {category}"})
