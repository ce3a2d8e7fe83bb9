"""Training of tinyworld/smollm2: packed texts behave as if each were alone, and contain no concept's name."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.pretrain.corpus import pixels
from benchmarks.pretrain.models import build_tokenizer
from benchmarks.pretrain.smollm2.__main__ import draw_batch, features
from benchmarks.pretrain.smollm2.alignment import align, caption_words
from benchmarks.pretrain.smollm2.chats import draw_chats, draw_talks, talk_scene, tellable
from benchmarks.pretrain.smollm2.model import Trained, packed_loss
from benchmarks.pretrain.smollm2.packing import Packed, Text, pack
from benchmarks.pretrain.smollm2.texts import draw_caption, draw_questions, draw_texts
from myvlm.tinyworld.language import IDENTIFIERS, KNOWN_NAMES
from myvlm.tinyworld.smollm2.adapter import merge
from myvlm.tinyworld.smollm2.parts import CHAT_TEMPLATE
from myvlm.tinyworld.world.draw import draw_scene
from myvlm.tinyworld.world.scenes import random_scene

TEMPLATE = CHAT_TEMPLATE.replace("<|im_start|>", "<s>").replace("<|im_end|>", "</s>")
TEXTS = [[Text("describe the picture .", "a red mug ."), Text("what size is the mug ?", "small .")]]


def tiny() -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    text = LlamaConfig(
        vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, initializer_range=0.2,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=96,
        patch_size=12,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, image_seq_length=64,
        vision_feature_layer=-1,
    )  # fmt: skip
    return LlavaForConditionalGeneration(config).eval(), tokenizer


def test_texts_behind_one_picture_cost_what_each_costs_alone() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    seen = torch.randn(1, 64, 8)

    def loss(texts: list[list[Text]]) -> tuple[float, int]:
        packed = pack(tokenizer, TEMPLATE, texts, 64)
        return packed_loss(model, trained, seen, packed).item(), int((packed.labels != -100).sum())

    (both, _), (one, n), (other, m) = loss(TEXTS), loss([TEXTS[0][:1]]), loss([TEXTS[0][1:]])
    assert one != pytest.approx(other, abs=1e-3)
    assert both == pytest.approx((one * n + other * m) / (n + m), abs=1e-5)


def test_the_loss_is_that_of_the_stock_model_on_the_same_picture() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    scenes = [random_scene(Random(3))]
    packed = pack(tokenizer, TEMPLATE, [TEXTS[0][:1]], 64)
    with torch.no_grad():
        picture = pixels(np.asarray(draw_scene(scenes[0]))[None])
        stock = model(input_ids=packed.ids, pixel_values=picture, labels=packed.labels).loss
    ours = packed_loss(model, trained, features(model, scenes), packed)
    assert ours.item() == pytest.approx(stock.item(), abs=1e-5)
    assert ours.item() != pytest.approx(packed_loss(model, trained, torch.zeros(1, 64, 8), packed).item())


def test_a_padded_row_costs_what_it_costs_without_padding() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    seen = torch.randn(2, 64, 8)
    longer = [*TEXTS, [*TEXTS[0], Text("where is this ?", "in the forest .")]]
    packed = pack(tokenizer, TEMPLATE, longer, 64)
    assert bool((packed.owner[0] == -1).any())
    first = Packed(*(tensor[:1] for tensor in vars(packed).values()))
    alone = packed_loss(model, trained, seen[:1], pack(tokenizer, TEMPLATE, TEXTS, 64))
    assert packed_loss(model, trained, seen[:1], first).item() == pytest.approx(alone.item(), abs=1e-5)


def test_a_text_without_the_picture_is_read_as_if_there_were_none() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    blind = Text("what size is the mug ?", "small .", sees=False)
    packed = pack(tokenizer, TEMPLATE, [[TEXTS[0][0], blind]], 64)
    packed.labels[packed.owner < 1000] = -100
    alone = pack(tokenizer, TEMPLATE, [[blind]], 0)
    with torch.no_grad():
        stock = model(input_ids=alone.ids, labels=alone.labels).loss.item()
    for _ in range(2):
        assert packed_loss(model, trained, torch.randn(1, 64, 8), packed).item() == pytest.approx(
            stock, abs=1e-5
        )


def test_the_teacher_is_the_language_model_as_it_was_and_reads_facts_for_the_picture() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    told = Text("describe the picture .", "a red mug .", facts="there is a red mug .", teacher=1.0)
    packed = pack(tokenizer, TEMPLATE, [[told, TEXTS[0][1]]], 64)
    words = pack(tokenizer, TEMPLATE, [[told.in_words()]], 0)
    seen = torch.randn(1, 64, 8)

    def loss() -> float:
        return packed_loss(model, trained, seen, packed, words).item()

    with torch.no_grad():
        reads = model(input_ids=words.ids, labels=words.labels).logits
        before = loss()
        for own in trained.lora.values():
            own.up.copy_(torch.randn_like(own.up) * 0.1)
        with trained.untaught():
            assert torch.equal(model(input_ids=words.ids, labels=words.labels).logits, reads)
        assert loss() != pytest.approx(before, abs=1e-3)
        for own in trained.lora.values():
            own.up.zero_()
    # Texts without a picture have no loss before training: student and teacher have the same input.
    chat = Text("where is this ?", "in the forest .", teacher=1.0, sees=False)
    packed, words = (pack(tokenizer, TEMPLATE, [[chat]], n) for n in (64, 0))
    assert loss() == pytest.approx(0.0, abs=1e-6)


def test_chats_and_talks_stand_behind_their_own_pictures() -> None:
    chats = [replace(one, answer="yes") for one in draw_chats(0, 20)]
    talks = [replace(one, answer="no") for one in draw_talks(0, 5, 0.15)]
    scenes, texts = draw_batch(0, 3, 6, chats, talks)
    last = [own[-1] for own in texts]
    assert [one.teacher for one in last] == [1.0, 1.0, 0.0] * 2
    assert {one.facts for one in last[1::3]} <= {one.facts for one in talks}
    number = talks.index(last[1])
    assert scenes[1] == talk_scene(0, number, 0.15)
    assert all(thing.category in last[1].facts for thing in scenes[1].things)
    assert not tellable(Text("Who is it?", "Sks."))
    assert not tellable(Text("Who is it?", ""))


def test_what_is_exported_speaks_as_what_was_trained() -> None:
    model, tokenizer = tiny()
    untaught, _ = tiny()
    trained = Trained(model)
    with torch.no_grad():
        trained.mean.copy_(torch.randn(8))
        trained.scale.copy_(torch.rand(8) + 0.5)
        for own in trained.lora.values():
            own.up.copy_(torch.randn_like(own.up) * 0.1)
    merge(untaught, trained.adapter())
    seen = torch.randn(1, 64, 8)
    packed = pack(tokenizer, TEMPLATE, TEXTS[:1], 64)
    again = Trained(untaught)  # without standardisation, with LoRAs of zero effect
    told, kept = packed_loss(model, trained, seen, packed), packed_loss(untaught, again, seen, packed)
    assert kept.item() == pytest.approx(told.item(), rel=2e-3)


def test_training_goes_on_from_what_was_exported_behind_a_standardising_of_its_own() -> None:
    (model, tokenizer), (other, _) = tiny(), tiny()
    trained, again = Trained(model), Trained(other)
    seen = torch.randn(1, 64, 8)
    packed = pack(tokenizer, TEMPLATE, TEXTS[:1], 64)
    with torch.no_grad():
        trained.mean.copy_(torch.randn(8))
        trained.scale.copy_(torch.rand(8) + 0.5)
        for own in trained.lora.values():
            own.up.copy_(torch.randn_like(own.up) * 0.1)
        again.standardise(torch.randn(3, 64, 8))
        again.load(trained.adapter())
    told, kept = packed_loss(model, trained, seen, packed), packed_loss(other, again, seen, packed)
    assert kept.item() == pytest.approx(told.item(), rel=2e-3)


def test_only_projector_and_lora_learn() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    packed_loss(model, trained, torch.randn(1, 64, 8), pack(tokenizer, TEMPLATE, TEXTS, 64)).backward()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {
        n for n in dict(model.named_parameters()) if "projector" in n or n.endswith(("up", "down"))
    }
    assert len([n for n in learned if n.endswith("up")]) == 4


def test_alignment_brings_patches_near_the_words_that_captions_say() -> None:
    model, tokenizer = tiny()
    trained = Trained(model)
    words = ["mug", "dog", "lamp"]
    random = torch.Generator().manual_seed(0)
    which = torch.randint(3, (60,), generator=random)
    seen = 0.1 * torch.randn(60, 64, 8, generator=random)
    seen[:, 7:13, :3] += 0.6 * torch.eye(3)[which][:, None]  # in six of 64 patches
    captions = [f"a {words[i]} here ." for i in which.tolist()]
    assert sorted(caption_words(captions)[0]) == sorted(words)
    trained.standardise(seen)
    align(model, trained, tokenizer, seen, captions, steps=150, fitted=200, report=lambda line: None)
    table = model.get_input_embeddings().weight.detach()
    meant = torch.stack([table[tokenizer(w).input_ids[0]] for w in words]) - table.mean(0)
    with torch.no_grad():
        shown = trained.project(seen)[:, 7] - table.mean(0)
    assert (
        torch.cosine_similarity(shown[:, None], meant[None], dim=-1).argmax(1) == which
    ).float().mean() > 0.95


def test_no_name_hint_or_invented_word_is_told() -> None:
    names = {*IDENTIFIERS, *(n for own in KNOWN_NAMES.values() for n in own)}
    random = Random(0)
    for _ in range(200):
        said = " ".join(f"{e.prompt} {e.answer}" for e in draw_texts(random_scene(random), random))
        found = {word.strip(".,?").lower() for word in said.split()} & names
        assert not found
        assert "[refer]" not in said


def test_forms_kept_back_are_never_taught() -> None:
    random = Random(1)
    scenes = [random_scene(random) for _ in range(200)]
    taught, unseen = (
        {draw_caption(s, random, unseen=u).prompt for s in scenes} for u in (False, True)
    )  # fmt: skip
    assert len(taught) > 10
    assert len(unseen) > 5
    assert not taught & unseen

    def forms(kept_back: bool) -> set[tuple[str, str]]:
        asked = [e for s in scenes for e in draw_questions(s, random, unseen=kept_back)]
        return {(" ".join(e.prompt.split()[:2]), e.prompt.split()[-1]) for e in asked}

    assert ("What pattern", "have?") in forms(False)
    assert ("What pattern", "have?") not in forms(True)
