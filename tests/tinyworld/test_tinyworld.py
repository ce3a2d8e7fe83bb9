"""tinyworld: scenes have ground truth, texts are true, training resumes, models have the stated
properties."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from benchmarks.pretrain.attention_supervision import Looking
from benchmarks.pretrain.corpus import Corpus, load_corpus, pixels, warp
from benchmarks.pretrain.lessons import PREFIX, Hint, lessons, pack, teach
from benchmarks.pretrain.models import CLIP_WIDTH, build_llava_processor, build_tokenizer, new_llava
from benchmarks.pretrain.train_clip import new_clip, train_clip
from benchmarks.pretrain.train_llava import (
    adopt_vision_tower,
    answer_logits,
    train_llava,
    words_as_rows,
)
from benchmarks.pretrain.training import Schedule, orthogonalised
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.boxes import iou
from myvlm.tinyworld import few_shot, sample_picture
from myvlm.tinyworld.language import (
    IDENTIFIERS,
    KNOWN_NAMES,
    box_words,
    caption,
    hint,
    mirror,
    noun_phrase,
    questions,
    reference,
    vocabulary,
)
from myvlm.tinyworld.truth import context_right, leaks, names_thing, read_box, same_answer, words
from myvlm.tinyworld.world.draw import draw_scene, draw_with_labels
from myvlm.tinyworld.world.scenes import (
    SIZE,
    Accent,
    Appearance,
    look_alike,
    random_appearance,
    random_scene,
)

SCENES = [random_scene(Random(f"test {i}")) for i in range(60)]


def test_scenes_are_drawn_the_same_from_the_same_seed() -> None:
    again = [random_scene(Random(f"test {i}")) for i in range(60)]
    assert again == SCENES
    first, second = (np.asarray(draw_with_labels(s)[0]) for s in (SCENES[0], again[0]))
    assert first.shape == (SIZE, SIZE, 3)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("scene", SCENES[:20])
def test_the_thing_map_agrees_with_the_boxes(scene) -> None:
    _, labels = draw_with_labels(scene)
    for number, thing in enumerate(scene.things, start=1):
        rows, columns = np.nonzero(labels == number)
        assert len(rows), "a thing is nowhere to be seen"
        left, top, right, bottom = (v / 4 for v in thing.box)
        assert columns.min() >= left - 1
        assert columns.max() <= right + 1
        assert rows.min() >= top - 1
        assert rows.max() <= bottom + 1


def test_look_alikes_differ_in_exactly_one_attribute_and_training_never_shows_held_out_ones() -> None:
    random = Random(0)
    for _ in range(200):
        look = random_appearance(random, held_out=True)
        other = look_alike(look, random)
        assert look.held_out
        assert other.category == look.category
        assert sum(a != b for a, b in zip(vars(look).values(), vars(other).values(), strict=True)) == 1
    shown = {thing.look for scene in SCENES for thing in scene.things}
    assert shown
    assert not any(look.held_out for look in shown)


def test_every_word_of_the_world_is_a_token_and_comes_back() -> None:
    tokenizer, random = build_tokenizer(), Random(0)
    texts = [caption(s, random) for s in SCENES]
    texts += [hint(s.things[0].look, "sks", s, random) for s in SCENES]
    texts += [t for s in SCENES for e in questions(s, random) for t in (e.prompt, e.answer)]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids, text
        assert len(ids) == len(text.split())
    assert len(set(vocabulary())) == len(vocabulary())
    assert not {n for names in KNOWN_NAMES.values() for n in names} & set(IDENTIFIERS)
    said = tokenizer.decode(tokenizer("What is next to Sks?")["input_ids"])
    assert said == "what is next to sks?"


def test_captions_say_what_is_there_and_names_stand_for_their_thing_only() -> None:
    for number, scene in enumerate(SCENES):
        random = Random(number)
        text = caption(scene, random)
        assert scene.place in words(text)
        assert scene.weather in words(text)
        for thing in scene.things:
            assert names_thing(text, thing) == (True, True, True), text
        look = scene.things[0].look
        named = caption(scene, random, {look: "sks"})
        assert named.split().count("sks") == sum(t.look == look for t in scene.things)


def test_references_fit_one_thing_only() -> None:
    twins = random_scene(
        Random(1), looks=(Appearance("mug", "red", "plain"), Appearance("mug", "red", "dotted")), count=2
    )
    first = reference(twins.things[0], twins, Random(0))
    assert first == "the plain red mug"


def test_two_of_a_kind_are_told_apart_in_words() -> None:
    random, told = Random(3), set()
    for _ in range(200):
        scene = random_scene(random, twins=1.0, count=random.choice((2, 3, 4)))
        looks = [thing.look for thing in scene.things]
        alike = [look for look in looks if sum(o.category == look.category for o in looks) > 1]
        assert len(alike) >= 2
        assert len(set(alike)) == len(alike)
        phrases = {reference(thing, scene, random) for thing in scene.things}
        assert len(phrases) == len(looks)
        hints = {frozenset(Hint(hint(look, "sks", scene, random), "sks", 1).words) for look in alike}
        assert len(hints) == len(alike)
        told |= {" with " in phrase for phrase in phrases}
    assert told == {True, False}, "some can be told apart by what is on them alone"


def test_words_of_a_box_give_the_box_back() -> None:
    for scene in SCENES:
        for thing in scene.things:
            box = read_box(box_words(thing.box))
            assert box is not None
            assert iou(box, thing.box) > 0.85
    assert read_box("no box") is None
    assert iou((0, 0, 10, 10), (20, 20, 30, 30)) == 0.0


def test_mirroring_twice_changes_nothing() -> None:
    for scene in SCENES[:10]:
        back = mirror(mirror(scene))
        for one, other in zip(back.things, scene.things, strict=True):
            assert one.box == pytest.approx(other.box)


def test_judges_of_answers_and_context() -> None:
    assert same_answer("in the sun", "on a sunny day")
    assert not same_answer("a plain red mug", "a dotted red mug")
    kit = few_shot(1, tests=6)
    names = {kit.look: kit.identifier}
    for scene in kit.present:
        right, total = context_right(caption(scene, Random(0), names), scene, kit.look)
        assert right == total >= 1
        assert not leaks(caption(scene, Random(0), names), scene, kit.context)
        assert context_right("nothing at all", scene, kit.look)[0] == 0
    there = {w for w in kit.context if w not in caption(kit.present[0], Random(0)).split()}
    assert leaks(f"a {sorted(there)[0]}", kit.present[0], {sorted(there)[0]})


def test_a_user_is_confounded_as_promised() -> None:
    kit = few_shot(3)
    companions = set.intersection(*({t.look for t in s.things} for s in kit.train)) - {kit.look}
    assert len(companions) == 1
    assert len({s.weather for s in kit.train}) == 1
    assert {s.place for s in kit.train}.isdisjoint({s.place for s in kit.present})
    assert all(s.find(kit.look) for s in kit.present)
    assert not any(s.find(kit.look) for s in (*kit.look_alike, *kit.other))
    assert all(kit.category in {t.category for t in s.things} for s in kit.look_alike)
    assert not any(kit.category in {t.category for t in s.things} for s in kit.other)
    assert [len(c) for c in kit.captions()] == [5] * 4
    assert all(kit.identifier in text.split() for texts in kit.captions() for text in texts)


def test_the_processor_places_the_picture_and_scales_it_as_training_did() -> None:
    processor = build_llava_processor()
    picture = sample_picture(0)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "where is this ?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=text, images=picture, return_tensors="pt", add_special_tokens=False)
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens[: len(PREFIX)] == list(PREFIX)
    assert tokens[len(PREFIX) :] == "where is this ? assistant :".split()
    torch.testing.assert_close(inputs["pixel_values"], pixels(np.asarray(picture)[None]), atol=1e-5, rtol=0)


def test_an_identity_warp_changes_nothing() -> None:
    image = pixels(np.asarray(sample_picture(1))[None])
    theta = torch.eye(3)[None, :2]
    warped, _ = warp(image, torch.zeros(1, 24, 24), theta)
    torch.testing.assert_close(warped, image, atol=1e-5, rtol=0)


def test_packed_texts_see_the_picture_and_their_own_past_only() -> None:
    """The logits of a packed text are those of the text alone."""
    model, vocab = new_llava(0).eval(), build_tokenizer().get_vocab()
    model.set_attn_implementation("sdpa")
    lesson = lessons(SCENES[0], Random(0))
    image = pixels(np.asarray(draw_with_labels(SCENES[0])[0])[None])
    with torch.no_grad():
        seen = model.model.vision_tower(image).last_hidden_state[:, 1:]
        together, targets, _ = answer_logits(model, seen, pack([lesson], vocab), None)
        alone = [answer_logits(model, seen, pack([[e]], vocab), None) for e in lesson]
    assert len(lesson) >= 5
    assert torch.equal(targets, torch.cat([t for _, t, _ in alone]))
    torch.testing.assert_close(together, torch.cat([logits for logits, *_ in alone]), atol=2e-4, rtol=1e-4)


def test_hints_behind_the_features_are_read_as_a_concepts_rows_are() -> None:
    """The training loss of two pictures with different numbers of rows in a batch equals that of learning."""
    model, vocab, random = new_llava(0).eval(), build_tokenizer().get_vocab(), Random(3)
    lessons_here = [teach(scene, random, True, beside=1.0) for scene in SCENES[:2]]
    texts = [[lesson.texts[0]] for lesson in lessons_here]
    shown = [draw_scene(scene) for scene in SCENES[:2]]
    hints = [[Hint("ulmo is the red mug", "ulmo", 1)], [Hint("sks", "sks", 0), Hint("dog : vex .", "vex", 2)]]
    beside = words_as_rows(model, hints, vocab, random)
    assert [len(own) for own in beside] == [1, 2]
    backbone = LlavaBackbone(model, build_llava_processor())
    alike = torch.cosine_similarity(beside[1][0].directions, backbone.word_direction("sks")[None])
    assert bool((alike > 0.9).all())
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        image = pixels(np.stack([np.asarray(picture) for picture in shown]))
        seen = model.model.vision_tower(image).last_hidden_state[:, 1:]
        logits, targets, _ = answer_logits(model, seen, pack(texts, vocab), None, beside)
        ours = torch.nn.functional.cross_entropy(logits, targets)
        learning = backbone.answer_loss(
            backbone.encode(shown), [own[0].prompt for own in texts], [own[0].answer for own in texts], beside
        )
    torch.testing.assert_close(ours, learning.cross_entropy, atol=1e-4, rtol=1e-4)


def test_captions_look_for_a_name_where_it_is_due_and_where_it_was_said() -> None:
    model, vocab, random = new_llava(0).eval(), build_tokenizer().get_vocab(), Random(3)
    taught = [teach(scene, random, True, beside=1.0) for scene in SCENES]
    hints = [lesson.hints for lesson in taught]
    texts = pack([lesson.texts for lesson in taught], vocab)
    beside, names = words_as_rows(model, hints, vocab, random), {h.name for own in hints for h in own}
    looked = Looking(hints, beside, texts, vocab, known=3)
    rows = max(sum(concept.count for concept in own) for own in beside)
    places = (looked.queries - len(PREFIX) - rows).clamp(min=0)
    due, said = looked.due.any(-1), looked.said.any(-1)
    spoken = {vocab[name] for name in names}
    assert due.any()
    # Where a row is due, the next word is a name; where a name was repeated, it is at that position.
    assert set(texts.targets.gather(1, places)[due].tolist()) <= spoken
    assert set(texts.ids.gather(1, places)[said].tolist()) <= spoken
    assert looked.bare.any()
    assert set(texts.targets.gather(1, places)[looked.bare].tolist()) <= {vocab["a"], vocab["an"]}
    heard = {name for name in spoken if bool((texts.ids == name).any())}
    assert set(texts.ids.gather(1, places)[said].tolist()) == heard
    seen = torch.zeros(len(SCENES), 64, CLIP_WIDTH)
    model.set_attn_implementation("sdpa")
    with looked.at(model.model.language_model.config):
        answer_logits(model, seen, texts, None, beside)
    assert len(looked.probabilities) == model.config.text_config.num_hidden_layers
    loss = looked.loss()
    assert loss.item() > 0
    loss.backward()
    queries = [layer.self_attn.q_proj.weight.grad for layer in model.model.language_model.layers]
    assert all(gradient is not None and bool(gradient.any()) for gradient in queries)


def test_llava_adopts_the_vision_tower_of_open_clip() -> None:
    clip, llava = new_clip(1).eval(), new_llava(0).eval()
    adopt_vision_tower(llava, clip.state_dict())
    image = pixels(np.asarray(sample_picture(2))[None])
    with torch.no_grad():
        clip.visual.output_tokens = True
        _, theirs = clip.visual(image)
        ours = llava.model.vision_tower(image).last_hidden_state[:, 1:]
        ours = llava.model.vision_tower.post_layernorm(ours)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    drawn = load_corpus(folder, seed=0, count=24, workers=1)
    kept = load_corpus(folder, seed=0, count=24, workers=1)
    assert np.array_equal(drawn.pictures, kept.pictures)
    assert drawn.pictures.shape == (24, SIZE, SIZE, 3)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("which", ["clip", "llava"])
def test_an_interrupted_training_ends_where_an_unbroken_one_does(
    which: str, corpus: Corpus, tmp_path: Path
) -> None:
    def train(schedule: Schedule):
        if which == "clip":
            return train_clip(corpus, 0, schedule)
        return train_llava(corpus, 0, schedule, new_clip(0).state_dict())

    whole = Schedule(3, 4, 1e-3, tmp_path / "whole.pt", warmup=1)
    for step in train(whole):
        unbroken = {k: v.clone() for k, v in step.model.state_dict().items()}
    broken = Schedule(3, 4, 1e-3, tmp_path / "broken.pt", warmup=1, workers=1)
    steps = train(broken)
    next(steps)
    broken.save(next(steps))
    steps.close()
    [last] = list(train(broken))
    assert last.number == 3
    for name, value in last.model.state_dict().items():
        assert torch.equal(value, unbroken[name]), name


def test_a_training_ends_by_the_clock_cooled_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("benchmarks.pretrain.training.time.monotonic", lambda: now[0])
    schedule = Schedule(1000, 4, 1e-3, tmp_path / "none.pt", warmup=1, cooling=0.5, seconds=10, begun=100.0)
    factors = []
    for number, _ in schedule.batches(str, 0):
        factors.append(round(schedule.factor(number), 3))
        now[0] += 2.5
    assert factors == [1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("which", ["clip", "llava"])
def test_a_training_can_go_on_from_earlier_weights(which: str, corpus: Corpus, tmp_path: Path) -> None:
    """With a learning rate of zero the weights come out unchanged."""
    before = (new_clip(5) if which == "clip" else new_llava(5)).state_dict()
    schedule = Schedule(1, 4, 0.0, tmp_path / "none.pt")
    if which == "clip":
        [step] = list(train_clip(corpus, 0, schedule, before))
    else:
        [step] = list(train_llava(corpus, 0, schedule, {}, before))
    after = step.model.state_dict()
    assert after.keys() == before.keys()
    for name, value in after.items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16)])
def test_orthogonalised_gives_nearly_orthogonal_matrices_of_the_same_directions(
    shape: tuple[int, int],
) -> None:
    gradient = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    found = orthogonalised(gradient, (3.4445, -4.775, 2.0315), 5, 1e-7)
    left, _values, right = torch.linalg.svd(gradient, full_matrices=False)
    sizes = torch.linalg.svdvals(found)
    assert found.shape == gradient.shape
    assert float(sizes.min()) > 0.6
    assert float(sizes.max()) < 1.3
    diagonal = left.T @ found @ right.T
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diag()), atol=1e-4, rtol=0)
    assert float(diagonal.diag().min()) > 0.6


def test_accents_are_said_with_the_right_article() -> None:
    look = Appearance("mug", "orange", "plain", Accent("indigo", "star"))
    assert noun_phrase(look, accent=True) == "a plain orange mug with an indigo star"
