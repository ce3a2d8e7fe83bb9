"""BLIP-2 in use: replies, prompts, unchanged state, learning, and from photos to captions through a file."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Blip2Model

from myvlm import Concept, MyVLM
from myvlm.backbones import backbone_for
from myvlm.backbones.qformer.blip2 import Blip2Backbone
from myvlm.backbones.qformer.hooks import value_path
from myvlm.errors import BackboneError, ConceptFileError, InputError
from myvlm.images import load_images
from myvlm.learning import LearnSettings, gather_examples, learn_embedding
from myvlm.learning.concept_optimizer import ConceptOptimizer, LearnRequest
from myvlm.learning.settings import MEASURED, TOLD, default_settings
from myvlm.text import contains_word
from myvlm.tinyworld import few_shot
from myvlm.tinyworld.fewshot import pictures as drawn
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import ANSWERS, PROMPTS, QUERIES, SHORT, WIDTH, rows, tiny_blip2, vectors


@pytest.fixture(scope="session", params=["opt", "t5"])
def made(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return tiny_blip2(language=request.param)


@pytest.fixture
def backbone(made: tuple[Any, Any]) -> Blip2Backbone:
    return Blip2Backbone(copy.deepcopy(made[0]), copy.deepcopy(made[1]))


# ---------------------------------------------------------------- replies


def test_sampling_with_concepts_repeats_by_seed_and_heeds_the_rows(backbone: Blip2Backbone) -> None:
    def sampled(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        replies = backbone.generate(pictures(3), PROMPTS, rows(2, 0, 1), do_sample=True, **SHORT)
        return [reply.token_ids.tolist() for reply in replies]

    assert sampled(1) == sampled(1)
    assert len({str(sampled(seed)) for seed in range(4)}) > 1


def test_a_model_in_halves_speaks_and_learns(made: tuple[Any, Any], tmp_path: Path) -> None:
    made[0].save_pretrained(tmp_path)
    whole = Blip2Backbone(*made)
    for dtype in (torch.float16, torch.bfloat16):
        model = type(made[0]).from_pretrained(tmp_path, dtype=dtype)
        half = Blip2Backbone(model, made[1])
        assert half.dtype == dtype
        if dtype == torch.float16:
            assert model.qformer.layernorm.weight.dtype == torch.float32  # transformers keeps it in float32
        gradients = []
        for backbone in (whole, half):
            samples = rows(1, 2, 1)
            features = backbone.encode(pictures(3))
            assert features[0].dtype == backbone.dtype
            loss = backbone.answer_loss(features, PROMPTS, ANSWERS, samples)
            gradients.append(torch.cat(torch.autograd.grad(loss.cross_entropy, vectors(samples))).flatten())
        assert torch.cosine_similarity(*gradients, dim=0) > 0.9
        assert half.fingerprint() == whole.fingerprint()
        replies = half.generate(pictures(3), PROMPTS, rows(0, 1, 2), **SHORT)
        assert all(reply.token_ids.numel() for reply in replies)
        inputs = half.prompter.processed(pictures(3)[:1], PROMPTS[:1]).to(half.device, dtype)
        plain = model.generate(**inputs, do_sample=False, **SHORT)
        expected = half.prompter.reply(half.prompter.new_ids(plain, inputs)[0])[1]
        assert torch.equal(replies[0].token_ids, expected)


def test_options_that_change_what_is_returned_are_refused(backbone: Blip2Backbone) -> None:
    with pytest.raises(InputError, match="num_return_sequences"):
        backbone.generate(pictures(1), PROMPTS[:1], rows(0), num_return_sequences=2)


@pytest.mark.parametrize("word", ["mug", "Anna"])
def test_the_attention_map_is_that_of_the_eager_maps(backbone: Blip2Backbone, word: str) -> None:
    concept, answer = rows(2)[0], "a red mug"
    found = backbone.attention_map(pictures(1)[0], "Where?", answer, word, concept)
    batch = backbone.prompter.teacher_forced(["Where?"], [answer])
    looks: list[torch.Tensor] = []
    backbone.model.set_attn_implementation("eager")
    [features] = backbone.encode(pictures(1))
    layers = backbone.inserted([concept]).layers
    handles = [layer.register_forward_hook(lambda *seen: looks.append(seen[2][1])) for layer in layers]
    pixels = backbone.processor.image_processor(pictures(1), return_tensors="pt")["pixel_values"]
    with torch.no_grad(), backbone.inserted([concept]):
        inputs = {"labels": batch.labels, **batch.inputs, "pixel_values": pixels}
        output = backbone.model(**inputs, output_attentions=True)
    for handle in handles:
        handle.remove()
    queries = torch.stack(looks).mean((0, 1, 2))
    language = output.language_model_outputs
    if backbone.prompter.causal:  # "red" predicts "mug"
        spoken = torch.stack(language.attentions).mean((0, 1, 2))[batch.starts[0] + 1, :QUERIES]
    else:
        spoken = torch.stack(language.cross_attentions).mean((0, 1, 2))[2, :QUERIES]
    weights = spoken if word == "mug" else queries[:, len(features) :].sum(1)
    expected = (weights @ queries)[1 : len(features)].reshape(4, 4)
    torch.testing.assert_close(torch.from_numpy(found), expected / expected.sum(), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="'Anna' in the answer"):
        backbone.attention_map(pictures(1)[0], "Where?", answer, "Anna", [])


# ---------------------------------------------------------------- prompts


def test_prompts_are_those_that_the_checkpoints_document(backbone: Blip2Backbone) -> None:
    render = backbone.prompter.render
    assert backbone.caption_prompt == render("") == ""
    assert render("Where is sks?") == "Question: Where is sks? Answer:"
    assert render("Question: Where? Answer:") == "Question: Where? Answer:"
    assert render("a photo of") == "a photo of"
    with pytest.raises(InputError, match=r"(?s)prompt contains a special token.*got: +<image> in"):
        render("<image> Where?")


def test_a_prompt_without_places_for_its_picture_is_refused(backbone: Blip2Backbone) -> None:
    features = backbone.encode(pictures(1))
    for places in (None, QUERIES - 1):
        backbone.processor.num_query_tokens = places
        with pytest.raises(InputError, match=rf"(?s)\[{places or 0}\] image placeholders.*{QUERIES} in each"):
            backbone.generate(pictures(1), ["Where?"], rows(1))
    backbone.processor.num_query_tokens = QUERIES
    backbone.model.config.image_token_id = None
    other = Blip2Backbone(backbone.model, backbone.processor)
    with pytest.raises(InputError, match=r"id None"):
        other.generate(pictures(1), ["Where?"], rows(0))
    with pytest.raises(InputError, match=r"id None"):
        other.answer_loss(features, ["Where?"], ["a mug"], rows(1))


def test_the_language_models_own_end_of_sequence_is_learned(backbone: Blip2Backbone) -> None:
    prompter = backbone.prompter
    end = backbone.model.language_model.generation_config.eos_token_id
    assert prompter.eos_ids == [end]
    batch = prompter.teacher_forced(["", "Where?"], ["my mug", "a"])
    said = [[label for label in labels if label != -100] for labels in batch.labels.tolist()]
    assert said == [
        [*backbone.word_ids("my"), *backbone.word_ids("mug"), end],
        [*backbone.word_ids("a"), end],
    ]
    assert prompter.reply(torch.tensor([8, 9, end, 8]))[1].tolist() == [8, 9]


# ---------------------------------------------------------------- manners


def test_inputs_that_do_not_fit_are_named(backbone: Blip2Backbone) -> None:
    with pytest.raises(InputError, match="1 images, 2 prompts"):
        backbone.generate(pictures(1), ["a", "b"], rows(0))
    with pytest.raises(InputError, match=rf"(?s)got: +16.*expected: +{WIDTH}"):
        backbone.generate(pictures(1), ["Where?"], rows(1, dim=16))
    with pytest.raises(BackboneError, match="2 pictures"), backbone.inserted(rows(1)):
        backbone.model.get_image_features(torch.zeros(2, 3, 28, 28))
    with pytest.raises(BackboneError, match="never reached"), backbone.inserted(rows(1)):
        pass
    with pytest.raises(BackboneError, match="could not be recorded"):
        backbone.inserted(rows(1)).penalty()
    backbone.processor.tokenizer.pad_token = None
    with pytest.raises(InputError, match="no padding token"):
        backbone.generate(pictures(2), ["a", "b"], rows(0, 0))


def test_a_model_without_a_head_is_refused(made: tuple[Any, Any]) -> None:
    assert type(backbone_for(*made)) is Blip2Backbone
    with pytest.raises(BackboneError, match="Blip2Model"):
        backbone_for(Blip2Model(made[0].config), made[1])


def test_only_the_innermost_insertion_of_this_thread_acts(backbone: Blip2Backbone) -> None:
    pixels = backbone.processor.image_processor(pictures(1), return_tensors="pt")["pixel_values"]
    found: list[torch.Tensor] = []

    def look() -> torch.Tensor:
        with torch.no_grad():
            queries: torch.Tensor = backbone.model.get_image_features(pixels).pooler_output
        found.append(queries)
        return queries

    plain = look()
    with backbone.inserted(rows(1)):
        outer = look()
        with backbone.inserted(rows(3)):
            inner = look()
        assert torch.equal(look(), outer)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert torch.equal(found[-1], plain)
    assert not torch.equal(outer, plain)
    assert not torch.equal(outer, inner)
    insertion = backbone.inserted(rows(1))
    with pytest.raises(ZeroDivisionError), insertion:
        raise ZeroDivisionError
    insertion.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.model.qformer.modules())


# ---------------------------------------------------------------- learning


def taught_examples(count: int = 2) -> Any:
    captions = [["sks on a table", "a photo of sks"], "sks and a mug"]
    questions = [("What is next to sks?", "a table")]
    return gather_examples("sks", load_images(pictures(count)), captions[:count], questions)


def test_the_tower_runs_once_a_photo_and_only_the_embedding_moves(backbone: Blip2Backbone) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    runs: dict[str, int] = {"tower": 0, "qformer": 0}
    prompts: set[str] = set()
    render = backbone.prompter.render
    backbone.prompter.render = lambda p: prompts.add(p) or render(p)  # type: ignore[func-returns-value, method-assign]

    def count(name: str) -> Any:
        return lambda *_: runs.update({name: runs[name] + 1})

    backbone.model.vision_model.register_forward_hook(count("tower"))
    backbone.model.qformer.register_forward_hook(count("qformer"))
    steps: list[float] = []
    settings = LearnSettings(steps=30, views=2, regularizer=0.04)
    learned = learn_embedding(
        backbone, taught_examples(), settings, report=lambda n, ce, *_: steps.append(ce)
    )
    assert runs == {"tower": 2, "qformer": 30}
    assert prompts == {"", "What is next to sks?"}
    assert learned.directions.shape == (1, WIDTH)
    assert sum(steps[-8:]) / 8 < sum(steps[:8]) / 8 - 0.03
    for name, value in backbone.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_learning_repeats_by_seed_and_starts_at_the_words(backbone: Blip2Backbone) -> None:
    settings = LearnSettings(steps=2, views=1, rows=2, seed=5, learning_rate=0.01)

    def learned(words: tuple[str, ...], seed: int = 5) -> torch.Tensor:
        own = settings.model_copy(update={"seed": seed})
        return learn_embedding(backbone, taught_examples(), own, words=words).directions

    first, other = learned(("sks", "mug")), learned(("sks", "mug"), seed=6)
    assert torch.equal(first, learned(("sks", "mug")))
    assert not torch.equal(first, other)
    between = backbone.word_direction("sks") + backbone.word_direction("mug")
    assert bool((torch.cosine_similarity(first, between[None]) > 0.9).all())
    assert bool((torch.cosine_similarity(learned(()), between[None]) < 0.7).all())


def test_a_word_is_the_feature_that_the_values_hand_on_as_its_embedding(backbone: Blip2Backbone) -> None:
    model = backbone.model
    layers = [layer.crossattention for layer in model.qformer.encoder.layer if layer.has_cross_attention]
    by_hand = sum(at.output.dense.weight @ at.attention.value.weight for at in layers)
    by_hand = model.language_projection.weight @ by_hand
    path = value_path(model.qformer, model.language_projection)
    torch.testing.assert_close(path, by_hand)
    direction = backbone.word_direction("sks")
    torch.testing.assert_close(direction.norm(), torch.tensor(1.0))
    handed, table = path @ direction, model.get_input_embeddings().weight
    alike = torch.cosine_similarity(handed[None], table)
    [sks] = backbone.word_ids("sks")
    assert alike[sks] > 0.5
    assert int(alike.argmax()) == sks


def test_the_regularizer_holds_attention_down(backbone: Blip2Backbone) -> None:
    free, held = (
        learn_embedding(
            backbone, taught_examples(), LearnSettings(steps=20, views=1, regularizer=weight)
        ).attention
        for weight in (0.0, 1000.0)
    )
    assert held < free


def test_the_papers_settings_are_the_familys_default() -> None:
    objects, people = (default_settings("any", family="blip2", kind=kind) for kind in ("object", "person"))
    assert (objects.steps, people.steps) == (75, 100)
    assert objects.regularizer == people.regularizer == 0.04
    assert default_settings("tinyworld/blip2").rows == 4  # measured; see `default_settings`
    assert default_settings("any", family="instructblip") == LearnSettings()
    assert default_settings("any", family="minigpt_v2").longest == 200


def test_a_told_start_is_one_among_the_words_where_rows_are_no_words(backbone: Blip2Backbone) -> None:
    def start(at: str) -> Tensor:
        settings = LearnSettings(start=at, rows=2, views=1)
        return ConceptOptimizer(backbone, LearnRequest((), settings, ("sks", "red", "mug"))).direction

    assert torch.equal(start("told"), start("words"))
    assert not torch.equal(start("told"), start("random"))


def test_what_a_language_model_of_others_learns_with_was_measured() -> None:
    default = default_settings("any", family="llava")
    assert default == LearnSettings(**TOLD)
    assert default == default_settings("any", family="a family from outside")
    assert default.longest == LearnSettings().steps, "no longer than the paper's"
    assert default_settings("any", family="mllama") == LearnSettings(**MEASURED), "its rows are no words"


# ---------------------------------------------------------------- from photos to captions


@pytest.mark.slow
@pytest.mark.parametrize("language", ["opt", "t5"])
def test_from_photos_to_captions_and_back_from_a_file(language: str, tmp_path: Path) -> None:
    model, processor = tiny_blip2(language=language)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    vlm = MyVLM(model, processor, name="tiny/blip2", encoder="tinyworld/clip")
    kit = few_shot(0, seed=0, photos=4, tests=3)
    settings = LearnSettings(steps=3, views=2, regularizer=0.04)
    concept = vlm.learn(
        "sks",
        kit.photos(),
        category="mug",
        captions=["sks on a table"] * 4,
        settings=settings,
        progress=False,
    )
    assert concept.embeddings["tiny/blip2"].directions.shape == (1, WIDTH)
    assert concept.embeddings["tiny/blip2"].prompt == ""
    shown = [*drawn(kit.present), *drawn(kit.other)]
    replies = vlm.caption(shown, **SHORT)
    with vlm.generic():
        plain = vlm.caption(shown, **SHORT)
    seen = [bool(reply.seen) for reply in replies]
    assert True in seen
    assert False in seen
    for reply, other in zip(replies, plain, strict=True):
        assert (reply.token_ids == other.token_ids) or reply.seen
    assert any(r.token_ids != p.token_ids for r, p in zip(replies, plain, strict=True))
    answer = vlm.ask(shown[0], "What is next to sks?", **SHORT)
    looked = vlm.attention(shown[0], "sks")
    assert looked.values.shape == (4, 4)

    folder = concept.save(tmp_path / "concept")
    again = MyVLM.from_pretrained(str(tmp_path / "model"), device="cpu", encoder="tinyworld/clip")
    again.concepts.add(folder)
    assert [reply.text for reply in again.caption(shown, **SHORT)] == [reply.text for reply in replies]
    assert again.ask(shown[0], "What is next to sks?", **SHORT).text == answer.text

    seen_picture = shown[seen.index(True)]
    other_model = tiny_blip2(language=language, seed=1)[0]
    stranger = MyVLM(other_model, processor, name="tiny/blip2", encoder="tinyworld/clip")
    stranger.concepts.add(Concept.load(folder))
    with pytest.raises(ConceptFileError, match="learned for another model"):
        stranger.attention(seen_picture, "sks")
    told = stranger.caption(seen_picture, **SHORT)
    with stranger.generic() as plain_stranger:
        hint = f"sks is {concept.description}. {stranger.backbone.caption_prompt}".strip()
        own, hinted = (plain_stranger.caption(seen_picture, prompt=p, **SHORT) for p in (None, hint))
    assert own.token_ids != hinted.token_ids
    assert told.token_ids == (own if contains_word(own.text, "mug") else hinted).token_ids
