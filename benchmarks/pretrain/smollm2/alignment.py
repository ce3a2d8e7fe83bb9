"""Initialize the projector so that a patch maps to the embeddings of the words it may show.

Uses only pictures and captions, without labels of patches. A small head predicts words per patch; a picture
has a word if any of its patches has it (multiple instance learning). The projector is then fitted to the
weighted sum of the words' embeddings. This costs a hundredth of running the same pictures through the
language model, which is frozen and so needs tokens that it can read. Not the default: see RESULTS.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pretrain.smollm2.model import Trained

BATCH = 32
RARE, COMMON = 0.005, 0.5
"""Words in a smaller or larger share of the captions are ignored: they do not describe pictures."""


def align(
    model: Any, trained: Trained, tokenizer: Any, features: Tensor, captions: Sequence[str], *,
    steps: int = 1500, fitted: int = 500, seed: int = 0, report: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Initialize the projector, whose input features are already standardised.

    Args:
        features: N × 64 × width, from the tower.
        captions: N plain captions.
    """
    features = (features - trained.mean) / trained.scale
    words, holds = caption_words(captions)
    holds = holds.to(features.device)
    generator = torch.Generator().manual_seed(seed)
    said = nn.Linear(256, len(words))
    nn.init.constant_(said.bias, -4.0)
    head = nn.Sequential(nn.Linear(features.shape[-1], 256), nn.GELU(), said).to(features.device)

    def draw() -> Tensor:
        return torch.randint(len(features), (BATCH,), generator=generator).to(features.device)

    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.01)
    for step in range(steps):
        chosen = draw()
        absent = F.logsigmoid(-head(features[chosen])).sum(1)  # log probability that no patch shows it
        absent = absent.clamp(max=-1e-6)
        loss = -torch.where(holds[chosen] > 0, torch.log(-torch.expm1(absent)), absent).mean()
        _update(optimiser, loss, step, steps)
        if step % 250 == 0 or step == steps - 1:
            report(f"words by patch: step {step} loss {loss.item():.4f}")
    table = model.model.language_model.embed_tokens.weight.detach()
    centre = table.mean(0)
    meant = torch.stack(
        [table[tokenizer(f" {w}", add_special_tokens=False).input_ids].mean(0) for w in words]
    )
    projector = trained.projector
    optimiser = torch.optim.AdamW(projector.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(fitted):
        shown = features[draw()]
        with torch.no_grad():
            target = centre + head(shown).sigmoid() @ (meant - centre)
        loss = F.mse_loss(projector(shown), target) / table.var()
        _update(optimiser, loss, step, fitted)
        if step % 100 == 0 or step == fitted - 1:
            report(f"projector to words: step {step} loss {loss.item():.4f}")


def caption_words(captions: Sequence[str]) -> tuple[list[str], Tensor]:
    """The words that distinguish captions, and an N × W matrix of 0 and 1: which caption has which word.

    >>> caption_words(["A red mug.", "A red dog.", "A blue dog."])[0]
    ['blue', 'mug']
    """
    split = [set(caption.lower().replace(",", " ").replace(".", " ").split()) for caption in captions]
    counts = Counter(word for own in split for word in own)
    words = [w for w, n in counts.items() if RARE <= n / len(captions) <= COMMON]
    words.sort(key=lambda w: (-counts[w], w))
    return words, torch.tensor([[float(w in own) for w in words] for own in split])


def _update(optimiser: torch.optim.Optimizer, loss: Tensor, step: int, steps: int) -> None:
    for group in optimiser.param_groups:
        group["lr"] = 2e-3 * min(1.0, 2 * (1 - step / steps))
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    optimiser.step()
