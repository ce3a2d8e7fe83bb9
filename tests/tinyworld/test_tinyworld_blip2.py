"""tinyworld/blip2: the untrained model, its processor, its tower, and a short training."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from benchmarks.pretrain import __main__ as pretrain
from benchmarks.pretrain.corpus import Corpus, load_corpus, pixels
from benchmarks.pretrain.lessons import Hint, lessons, told_lesson
from benchmarks.pretrain.models import build_tokenizer, new_llava
from benchmarks.pretrain.models_blip2 import (
    QUERY_TOKENS,
    adopt_blip2_tower,
    adopt_words,
    build_blip2_processor,
    build_blip2_tokenizer,
    look_at_places,
    new_blip2,
)
from benchmarks.pretrain.train_blip2 import (
    answer_blip2,
    asked,
    blip2_answer_logits,
    names_not_found,
    pack_blip2,
    patch_names,
    train_blip2,
    words_as_features,
)
from benchmarks.pretrain.training import Schedule
from myvlm import MyVLM
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.qformer.hooks import QFormerRows
from myvlm.errors import UnknownBackboneError
from myvlm.tinyworld import assets, sample_picture
from myvlm.tinyworld.language import IDENTIFIERS, KNOWN_NAMES, Exchange, caption
from myvlm.tinyworld.world.scenes import SIZE, random_scene

QUESTION = "what colour is ulmo ?"


def picture_pixels(count: int) -> torch.Tensor:
    return pixels(np.stack([np.asarray(sample_picture(seed)) for seed in range(count)]))


def test_the_processor_keeps_places_scales_as_training_did_and_knows_every_word() -> None:
    processor = build_blip2_processor()
    backbone = Blip2Backbone(new_blip2(0), processor)
    inputs = backbone.prompter.processed([sample_picture(0)], [QUESTION])
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens[:QUERY_TOKENS] == ["<image>"] * QUERY_TOKENS
    assert tokens[QUERY_TOKENS:] == asked(Exchange(QUESTION, "purple")).split()
    torch.testing.assert_close(inputs["pixel_values"], picture_pixels(1), atol=1e-5, rtol=0)
    random = Random(0)
    scene = random_scene(random)
    texts = [f"{asked(e)} {e.answer}" for _ in range(5) for e in lessons(scene, random)]
    texts.append(caption(scene, random))
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert len(texts) > 20
    assert processor.tokenizer.unk_token_id not in {token for own in ids for token in own}
    assert max(token for own in ids for token in own) < backbone.model.config.text_config.vocab_size


def test_packed_texts_are_what_the_model_in_use_reads() -> None:
    """The logits of a packed text are those of the text alone, by the processor's own ids."""
    model, processor = new_blip2(0).eval(), build_blip2_processor()
    scene, picture = random_scene(Random(3)), sample_picture(3)
    lesson = [e for e in lessons(scene, Random(0)) if not e.hint and "[refer]" not in e.prompt]
    assert len(lesson) >= 3
    prompter = Blip2Backbone(model, processor).prompter
    with torch.no_grad():
        packed = pack_blip2([lesson], processor.tokenizer.get_vocab())
        seen = model.get_image_features(pixels(np.asarray(picture)[None]), return_dict=True).pooler_output
        together, targets = blip2_answer_logits(model, seen, packed)
        alone, said = [], []
        for exchange in lesson:
            prompt = exchange.prompt if asked(exchange) != "<s>" else ""
            batch = prompter.teacher_forced([prompt], [exchange.answer])
            inputs = {**batch.inputs, "pixel_values": pixels(np.asarray(picture)[None])}
            logits, labels = prompter.aligned(model(**inputs).logits, batch.labels)
            alone.append(logits[labels != -100])
            said.append(labels[labels != -100])
    assert torch.equal(targets, torch.cat(said))
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-4, rtol=1e-3)


def test_the_tower_begins_where_llavas_ended_and_each_query_looks_at_its_patches() -> None:
    llava = MyVLM.from_pretrained("tinyworld/llava").backbone.model
    model, images = new_blip2(0).eval(), picture_pixels(16)
    with torch.no_grad():
        tower = llava.model.vision_tower
        theirs = tower.post_layernorm(tower(images).last_hidden_state[:, 1:])
        before = model.vision_model(images).last_hidden_state
        adopt_blip2_tower(model, llava.state_dict(), images)
        adopt_words(model, llava.state_dict())
        look_at_places(model, images)
        seen = model.vision_model(images).last_hidden_state
        near = torch.cosine_similarity(seen[:, 1:], theirs, dim=-1).mean()
        far = torch.cosine_similarity(before[:, 1:], theirs, dim=-1).mean()
        attention = model.qformer.encoder.layer[0].crossattention.attention
        queries = model.qformer.layernorm(model.query_tokens)
        scores = attention.query(queries) @ attention.key(seen).transpose(1, 2)
    assert near > 0.8
    assert far < 0.3
    pairs = scores[:, :, 1:].unflatten(2, (QUERY_TOKENS, 2)).mean(-1).mean(0)
    assert (pairs.argmax(1) == torch.arange(QUERY_TOKENS)).float().mean() > 0.5
    ours, known = build_blip2_tokenizer().get_vocab(), build_tokenizer().get_vocab()
    table = llava.get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[ours["mug"]], table[known["mug"]])


def test_hints_beside_the_features_are_words_and_are_all_that_the_texts_name() -> None:
    random, vocabulary = Random(2), build_blip2_tokenizer().get_vocab()
    known = {*IDENTIFIERS, *(name for names in KNOWN_NAMES.values() for name in names)}
    kind_of_name = {name: {category} for category, own in KNOWN_NAMES.items() for name in own}
    hints, named = [], 0
    for seed in range(40):
        scene = random_scene(Random(seed))
        lesson = told_lesson(scene, random)
        own = lesson.hints
        told = {word for hint in own for word in hint.words} & known
        assert all(told & set(hint.words) == {hint.name} for hint in own)
        for hint in own:
            here = scene.things[hint.thing - 1] if hint.thing else None
            assert here is None or {here.category} & {*hint.words, *kind_of_name.get(hint.name, ())}
        for exchange in lesson.texts:
            said = set(f"{exchange.prompt} {exchange.answer}".split()) & known
            assert said <= told
            assert not exchange.hint
            named += bool(said)
        hints.append(own)
    assert named > 120
    assert max(map(len, hints)) >= 3
    backbone = Blip2Backbone(new_blip2(0), build_blip2_processor())
    beside = words_as_features(backbone.model, hints, vocabulary, random)
    assert [len(rows) for rows in beside] == [len(own) for own in hints]
    assert {rows.count for own in beside for rows in own} == {1, 2, 3, 4}
    number, name = next((n, own[0].name) for n, own in enumerate(hints) if own and len(own[0].words) == 1)
    alike = torch.cosine_similarity(beside[number][0].directions, backbone.word_direction(name)[None])
    assert bool((alike > 0.9).all())


def test_a_patch_is_labelled_with_the_name_of_the_thing_that_it_shows() -> None:
    words = build_blip2_tokenizer().get_vocab()
    hints = [[Hint("sks", "sks", 2), Hint("vex", "vex", 0)], [], [Hint("mug : ulmo", "ulmo", 1)]]
    shown = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 0], [1, 0, 0, 1]])
    sks, ulmo = words["sks"], words["ulmo"]
    assert patch_names(hints, words, shown).tolist() == [[0, 0, sks, sks], [0] * 4, [ulmo, 0, 0, ulmo]]


def test_queries_are_told_to_look_at_the_rows_of_what_their_patches_show() -> None:
    model, words = new_blip2(0), build_blip2_tokenizer().get_vocab()
    hints = [[Hint("mug sks", "sks", 1), Hint("vex", "vex", 0)], [Hint("dog ulmo", "ulmo", 2)]]
    beside = words_as_features(model, hints, words, Random(0))
    shown = torch.zeros(2, 64, dtype=torch.long)
    shown[0, 7], shown[1, 10:12] = 1, 2  # each in the patches of one query: the 4th and the 6th
    pictures = torch.zeros(2, 3, SIZE, SIZE)
    with QFormerRows(model.qformer, beside, record=True) as looked:
        model.get_image_features(pictures)
        loss = names_not_found(looked, hints, beside, shown)
    found, idle = [], []
    for picture, (query, count) in enumerate(((3, beside[0][0].count), (5, beside[1][0].count))):
        given = sum(layer[picture, :, query].sum(0) for layer in looked.probabilities[1:])
        assert isinstance(given, torch.Tensor)
        right, rows = given[65 : 65 + count].sum().item(), given[65:].sum().item()
        found.append(-math.log(right / max(rows, 1.0)))
        others = [number for number in range(QUERY_TOKENS) if number != query]
        [layer] = looked.probabilities[1:]
        idle += (-(1 - layer[picture, :, others, 65:].sum(-1).mean(0)).log()).tolist()
    assert loss.item() == pytest.approx(np.mean(found) + np.mean(idle), rel=1e-4)
    loss.backward()
    assert bool(model.qformer.encoder.layer[2].crossattention.attention.query.weight.grad.any())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(tmp_path_factory.mktemp("corpus"), seed=0, count=12, workers=1)


@pytest.mark.slow
def test_a_training_can_be_interrupted_and_its_model_loaded(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llava = new_llava(1).state_dict()
    whole = Schedule(2, 2, 1e-3, tmp_path / "whole.pt", warmup=1)
    for step in train_blip2(corpus, 0, whole, llava):
        unbroken = {name: value.clone() for name, value in step.model.state_dict().items()}
        assert step.losses["answers"] > 0
    broken = Schedule(2, 2, 1e-3, tmp_path / "broken.pt", warmup=1)
    steps = train_blip2(corpus, 0, broken, llava)
    broken.save(next(steps))
    steps.close()
    [last] = list(train_blip2(corpus, 0, broken, llava))
    assert last.number == 2
    fresh, changed = new_blip2(0).state_dict(), set()
    for name, value in last.model.state_dict().items():
        assert torch.equal(value, unbroken[name]), name
        changed |= {name.split(".")[0]} if not torch.equal(value, fresh[name]) else set()
    assert changed == {"vision_model", "query_tokens", "qformer", "language_projection", "language_model"}

    monkeypatch.setattr(pretrain, "score_llava", lambda model, processor, *, say: {"said": len(
        say(model, processor, [sample_picture(0)] * 2, ["Describe the image.", QUESTION])
    )})  # fmt: skip
    pretrain.export_blip2(tmp_path / "blip2", unbroken, {"seed": 0, "steps": 2})
    assert "| said | 2.000 |" in (tmp_path / "blip2" / "README.md").read_text()
    vlm = MyVLM.from_pretrained(str(tmp_path / "blip2"), device="cpu", encoder="tinyworld/clip")
    reply = vlm.caption(sample_picture(0), max_new_tokens=4)
    model, processor = vlm.backbone.model, vlm.backbone.processor
    [plain] = answer_blip2(model, processor, [sample_picture(0)], ["Describe the image."])
    assert reply.text
    assert plain.startswith(reply.text)


def test_without_weights_it_is_said_how_to_make_them() -> None:
    shipped = (assets.WEIGHTS / "blip2" / "README.md").exists()  # if it ships, use another name
    name = "tinyworld/blip3" if shipped else "tinyworld/blip2"
    with pytest.raises(UnknownBackboneError, match=rf"(?s){name}.*tinyworld/llava.*benchmarks.pretrain"):
        MyVLM.from_pretrained(name)
