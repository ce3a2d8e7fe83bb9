"""Backbones: the contract on tiny models of each family, and error messages."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, PreTrainedTokenizerFast

from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones import tokens as text
from myvlm.backbones.causal.prompts import Prompter
from myvlm.backbones.families.llava import LlavaBackbone
from myvlm.errors import InputError
from myvlm.testing import BACKBONE_CHECKS, check_backbone
from tests.support.tiny import pictures, rows, tiny_llava, tiny_tokenizer
from tests.support.tiny_tokens import TEMPLATES

MODELS: dict[str, dict[str, Any]] = {
    "clip": {},
    "clip with its CLS token": {"strategy": "full"},
    "clip, chat template": {"chat": True},
    "siglip": {"tower": "siglip"},
    "no id to spare": {"spare_ids": 0},
    "other weights": {"seed": 3},
}
SHORT: dict[str, Any] = {"max_new_tokens": 6}


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_llava_keeps_the_contract(options: dict[str, Any]) -> None:
    outcomes = check_backbone(backbone_for(*tiny_llava(**options)), pictures(3))
    assert [outcome.check for outcome in outcomes] == [check.__name__ for check in BACKBONE_CHECKS]
    assert len(outcomes) >= 15
    assert all(outcome.passed for outcome in outcomes), outcomes


def test_the_contract_wants_float32_and_three_images(backbone: LlavaBackbone) -> None:
    with pytest.raises(InputError, match="2 images"):
        check_backbone(backbone, pictures(2))
    backbone.model.to(torch.bfloat16)
    with pytest.raises(InputError, match="bfloat16"):
        check_backbone(backbone, pictures(3))


class Broken(LlavaBackbone):
    """Each method breaks one requirement; the class is not registered."""

    broken = ""

    def inserted(self, rows: Any, sentinels: Any = None) -> Any:
        insertion = super().inserted(rows, sentinels)
        if self.broken == "rows":
            values = insertion._values
            insertion._values = lambda embeds, places: values(embeds, places) * 1.01  # type: ignore[method-assign]
        if self.broken == "hooks":
            insertion.remove = lambda: None  # type: ignore[method-assign]
        return insertion

    def answer_loss(self, *args: Any) -> Any:
        if self.broken == "flags":
            for weight in self.model.parameters():
                weight.requires_grad_(False)
        return super().answer_loss(*args)

    def generate(self, images: Any, prompts: Any, rows: Any, **generation: Any) -> Any:
        if self.broken == "order":
            return list(reversed(super().generate(images, prompts, rows, **generation)))
        if self.broken == "plain":
            rows = [sample or [ConceptRows(torch.ones(1, self.dim))] for sample in rows]
        return super().generate(images, prompts, rows, **generation)


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        ("rows", "rows_land_exactly"),
        ("hooks", ""),
        ("flags", "everything_is_restored"),
        ("order", "nothing_attached_is_plain"),
        ("plain", "nothing_attached_is_plain"),
    ],
)
def test_the_contract_notices_a_broken_promise(backbone: LlavaBackbone, broken: str, check: str) -> None:
    faulty = Broken(backbone.model, backbone.processor)
    faulty.broken = broken
    with pytest.raises(AssertionError, match=f"^{check}"):
        check_backbone(faulty, pictures(3))


def test_samples_without_concepts_never_meet_a_hook(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hooked(*_: Any) -> Any:
        raise AssertionError("a hook for a plain sample")

    seen: list[dict[str, Any]] = []
    generate = backbone.model.generate
    monkeypatch.setattr(backbone, "inserted", hooked)
    monkeypatch.setattr(
        backbone.model, "generate", lambda **kwargs: seen.append(kwargs) or generate(**kwargs)
    )
    replies = backbone.generate(pictures(2), ["Where?", "What is on it?"], rows(0, 0), **SHORT)
    assert len(replies) == 2
    assert set(seen[0]) == {
        *("input_ids", "attention_mask", "pixel_values"),
        *("do_sample", "num_beams", "max_new_tokens", "num_return_sequences"),
    }


def test_options_reach_generate_and_the_spare_token_is_never_chosen(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    generate = backbone.model.generate
    monkeypatch.setattr(
        backbone.model, "generate", lambda **kwargs: seen.append(kwargs) or generate(**kwargs)
    )
    image, prompt = pictures(1), ["Where?"]
    spare = backbone.prompter.sentinel_id
    config = GenerationConfig(max_new_tokens=2, suppress_tokens=[9], eos_token_id=3, pad_token_id=1)
    backbone.generate(image, prompt, rows(1), suppress_tokens=[7, 8], max_length=40)
    backbone.generate(image, prompt, rows(1), generation_config=config)
    assert [kwargs.get("suppress_tokens") for kwargs in seen] == [[7, 8], None]
    for kwargs in seen:
        [processor] = kwargs["logits_processor"]
        scores = processor(torch.zeros(1, 0).long(), torch.zeros(2, spare + 2))
        assert (scores == -torch.inf).nonzero().tolist() == [[0, spare], [1, spare]]
    assert "max_new_tokens" not in seen[0]
    assert "max_new_tokens" not in seen[1]
    assert config.suppress_tokens == [9]


@pytest.mark.parametrize(
    "options",
    [
        {"num_return_sequences": 2},
        {"input_ids": torch.ones(1, 1).long()},
        {"generation_config": GenerationConfig(num_return_sequences=2, num_beams=2)},
    ],
)
def test_options_that_change_what_is_returned_are_refused(
    backbone: LlavaBackbone, options: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        backbone.generate(pictures(1), ["Where?"], rows(0), **options)


def test_the_end_of_sequence_is_learned_and_then_ends_the_reply(backbone: LlavaBackbone) -> None:
    new = torch.tensor([7, 8, 3, 9, 1])
    reply, ids = backbone.prompter.reply(new)
    assert ids.tolist() == [7, 8]
    assert reply == backbone.processor.tokenizer.decode([7, 8])
    batch = backbone.prompter.teacher_forced(["<image>" * 16], ["Where?"], ["my mug"], rows(2))
    assert batch.labels[0].tolist()[-3:] == [*backbone.word_ids("my"), *backbone.word_ids("mug"), 3]
    assert batch.rows.tolist() == [[batch.rows[0, 0].item(), batch.rows[0, 0].item() + 1]]
    assert batch.later[0, 0] == batch.rows[0, -1] + 1


def test_word_ids_are_those_of_the_word_in_a_sentence(backbone: LlavaBackbone) -> None:
    tokenizer = backbone.processor.tokenizer
    assert backbone.word_ids("sks") == [tokenizer.convert_tokens_to_ids("sks")]
    assert backbone.word_ids("zyzzyva") == [tokenizer.unk_token_id]
    assert backbone.word_ids(" ") == []


def test_a_prompt_that_ends_in_a_space_keeps_its_ids() -> None:
    class Gluing:
        """Splits 'a b' into three tokens and 'a ' into two, as tokenizers with spaces in their words do."""

        bos_token = None

        def __call__(self, words: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [len(part) for part in words.replace(" b", "|bb").split("|")]}

    assert text.answer_ids(Gluing(), "a ", "b") == [1]
    assert text.answer_ids(Gluing(), "a", "b") == [2]


@pytest.mark.parametrize(
    ("template", "split", "said"),
    [
        ("mistral3", pre_tokenizers.ByteLevel(add_prefix_space=False), ["a", "Ġmug"]),
        ("mistral", pre_tokenizers.Metaspace(), ["▁a", "▁mug"]),
        ("vicuna", pre_tokenizers.ByteLevel(add_prefix_space=False), ["Ġa", "Ġmug"]),
    ],
)
def test_an_answer_begins_with_the_token_that_the_model_would_say(
    template: str, split: Any, said: list[str]
) -> None:
    """Without a space in the template it is the token at the start of a text (Mistral's tokenizers)."""
    words = ["<unk>", "</s>", "[/INST]", "a", "Ġa", "Ġmug", "▁a", "▁mug"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = split
    core.add_special_tokens(["</s>", "[/INST]"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    tokenizer.chat_template = TEMPLATES[template]
    processor = SimpleNamespace(
        tokenizer=tokenizer, image_token="<image>", apply_chat_template=tokenizer.apply_chat_template
    )
    prompter = Prompter(processor, template=None, image_id=9, sentinel_id=8, eos_ids=[1])
    assert tokenizer.convert_ids_to_tokens(prompter.answer_ids("Where?", " a mug")) == said
    assert prompter.answer_ids("Where?", " ") == []


def test_the_beginning_of_sequence_comes_once() -> None:
    tokenizer = tiny_tokenizer()
    assert text.prompt_ids(tokenizer, "<s> a mug").count(tokenizer.bos_token_id) == 1
    assert text.prompt_ids(tokenizer, "a mug").count(tokenizer.bos_token_id) == 1


def test_the_attention_map_follows_the_first_token_of_the_word(backbone: LlavaBackbone) -> None:
    image = pictures(1)[0]
    concept = rows(1)[0]

    def look(answer: str, word: str) -> Any:
        return backbone.attention_map(image, "Where?", answer, word, concept)

    assert look("a red mug", "mug").shape == (4, 4)
    # The position that predicts a word comes before it, so the word and later text cannot matter.
    assert abs(look("a red mug", "mug") - look("a red dog on the table", "dog")).max() < 1e-6
    assert abs(look("a red mug", "mug") - look("a blue mug", "mug")).max() > 1e-6
    with pytest.raises(InputError, match="'Anna' in the answer"):
        backbone.attention_map(image, "Where?", "a red mug", "Anna", [])


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_the_attention_map_is_the_mean_of_the_eager_maps_over_the_patches(strategy: str) -> None:
    backbone = LlavaBackbone(*tiny_llava(strategy=strategy))
    image, concept = pictures(1)[0], rows(1)[0]
    found = backbone.attention_map(image, "Where?", "a red mug", "red", concept)
    unsaid = backbone.attention_map(image, "Where?", "a red mug", "Anna", concept)
    tokens = 16 + (strategy == "full")
    batch = backbone.prompter.teacher_forced(["<image>" * tokens], ["Where?"], ["a red mug"], [concept])
    pixels = backbone.processor.image_processor([image], return_tensors="pt")
    backbone.language_model.config._attn_implementation = "eager"
    with backbone.inserted([concept]), torch.no_grad():
        maps = backbone.model(input_ids=batch.ids, **pixels, output_attentions=True).attentions
    patches = (batch.ids[0] == backbone.image_id).nonzero()[-16:, 0]
    for position, seen in ((batch.starts[0], found), (int(batch.rows[0, 0]), unsaid)):  # "a" predicts "red"
        expected = torch.cat(maps).mean((0, 1))[position, patches].reshape(4, 4)
        torch.testing.assert_close(torch.from_numpy(seen), expected / expected.sum(), rtol=1e-4, atol=1e-6)


def test_a_model_in_training_mode_answers_as_in_eval(backbone: LlavaBackbone) -> None:
    def all_of_it() -> list[Any]:
        features = backbone.encode(pictures(2))
        prompts, answers, concepts = ["Where?", "What?"], ["a mug", "a dog"], rows(0, 2)
        return [
            *(feature.tokens for feature in features),
            backbone.answer_loss(features, prompts, answers, concepts).cross_entropy,
            *(reply.token_ids for reply in backbone.generate(pictures(2), prompts, concepts, **SHORT)),
        ]

    before = all_of_it()
    backbone.model.train()
    assert len(before) == 5
    assert all(torch.equal(*pair) for pair in zip(all_of_it(), before, strict=True))


def test_samples_with_and_without_concepts_run_apart(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, bool]] = []
    generate = backbone.model.generate

    def spy(**kwargs: Any) -> Any:
        sizes.append((len(kwargs["input_ids"]), "logits_processor" in kwargs))
        return generate(**kwargs)

    monkeypatch.setattr(backbone.model, "generate", spy)
    backbone.generate(pictures(3), ["Where?", "What?", "Where?"], rows(1, 0, 2), **SHORT)
    assert sizes == [(1, False), (2, True)]


@pytest.mark.parametrize(("own", "read"), [({}, 2), ({"cache_implementation": "dynamic"}, 6)])
def test_several_prompts_read_a_picture_once_unless_the_model_wants_a_cache_of_its_own(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch, own: dict[str, str], read: int
) -> None:
    shown, prompts = pictures(2), ["Where?", "What is next to sks?", "What?"]
    expected = [
        [backbone.generate([one], [prompt], [[]], **SHORT)[0].text for prompt in prompts] for one in shown
    ]
    for name, value in own.items():
        monkeypatch.setattr(backbone.model.generation_config, name, value)
    seen: list[int] = []
    backbone.model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs.get("pixel_values", *args))), with_kwargs=True
    )
    replies = backbone.replies_to_each(shown, prompts, **SHORT)
    assert [[reply.text for reply in own] for own in replies] == expected
    assert sum(seen) == read


def test_no_more_prefixes_than_the_family_allows_are_kept_at_once(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    prefixes = backbone.prefixes
    monkeypatch.setattr(
        backbone, "prefixes", lambda features: made.append(len(features)) or prefixes(features)
    )
    asked = pictures(5), ["Where?", "What is next to sks?"]
    together = backbone.replies_to_each(*asked, **SHORT)
    monkeypatch.setattr(backbone, "images_at_once", 2)
    assert [[one.text for one in own] for own in backbone.replies_to_each(*asked, **SHORT)] == [
        [one.text for one in own] for own in together
    ]
    assert made == [5, 2, 2, 1]


def test_no_more_pictures_than_the_family_allows_run_at_once_and_replies_keep_their_order(
    backbone: LlavaBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    generate = backbone.model.generate
    monkeypatch.setattr(
        backbone.model, "generate", lambda **kw: sizes.append(len(kw["input_ids"])) or generate(**kw)
    )
    prompts = ["Where?", "What is on it?", "Where?", "What is next to sks?", "Where?", "What?"]
    sample = pictures(6), prompts, rows(0, 1, 0, 0, 2, 0)
    together = backbone.generate(*sample, num_beams=2, **SHORT)
    assert sizes == [4, 2]
    sizes.clear()
    backbone.images_at_once = 3
    apart = backbone.generate(*sample, num_beams=2, **SHORT)
    assert sizes == [3, 1, 2]
    assert len({tuple(reply.token_ids.tolist()) for reply in together}) > 1
    assert [g.token_ids.tolist() for g in apart] == [g.token_ids.tolist() for g in together]


def test_a_longer_answer_costs_no_padding_of_others(backbone: LlavaBackbone) -> None:
    features = backbone.encode(pictures(2))
    prompts, answers, concepts = (
        ["Where?", "What is on it?"],
        ["a mug", "the red dog on the table"],
        rows(1, 2),
    )
    both = backbone.answer_loss(features, prompts, answers, concepts)
    alone = [
        backbone.answer_loss(features[i : i + 1], prompts[i : i + 1], answers[i : i + 1], concepts[i : i + 1])
        for i in range(2)
    ]
    tokens = [3, 7]
    mean = sum(n * loss.cross_entropy for n, loss in zip(tokens, alone, strict=True)) / sum(tokens)
    torch.testing.assert_close(both.cross_entropy, mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        both.attention, (alone[0].attention + alone[1].attention) / 2, rtol=1e-5, atol=1e-7
    )
    assert backbone.answer_loss(features, prompts, answers, rows(0, 0)).attention == 0


def test_the_samples_losses_are_the_batchs_and_cost_no_second_softmax(backbone: LlavaBackbone) -> None:
    class Calls(TorchDispatchMode):
        softmaxes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.softmaxes += func.overloadpacket is torch.ops.aten._log_softmax
            return func(*args, **(kwargs or {}))

    given = backbone.encode(pictures(2)), ["Where?", "What?"], ["a mug", "the red dog on it"], rows(1, 2)
    with Calls() as calls:
        loss = backbone.answer_loss(*given)
        assert loss.by_sample is not None
        samples = loss.by_sample()
    assert calls.softmaxes == 1
    assert (samples.targets != -100).sum(1).tolist() == [3, 6]
    assert samples.by_token[samples.targets == -100].eq(0).all()
    torch.testing.assert_close(samples.by_token.sum() / 9, loss.cross_entropy)
    torch.testing.assert_close(samples.attention.mean(), loss.attention)


def test_inputs_that_do_not_fit_are_named(backbone: LlavaBackbone) -> None:
    image = pictures(1)
    with pytest.raises(InputError, match="1 images, 2 prompts"):
        backbone.generate(image, ["a", "b"], rows(0))
    with pytest.raises(InputError, match=r"(?s)got: +16.*expected: +32"):
        backbone.generate(image, ["Where?"], rows(1, dim=16))
    with pytest.raises(InputError, match=r"(?s)got: +16.*expected: +32"):
        backbone.attention_map(image[0], "Where?", "a mug", "mug", rows(1, dim=16)[0])
    with pytest.raises(InputError, match=r"(?s)prompt contains a special token.*got: +<image> in"):
        backbone.generate(image, ["<image> Where?"], rows(0))
    with pytest.raises(InputError, match=r"\(32,\)"):
        ConceptRows(torch.ones(32))
    with pytest.raises(InputError, match="'cls'"):
        ConceptRows(torch.ones(1, 32), norm="cls")  # type: ignore[arg-type]
    backbone.processor = copy.deepcopy(backbone.processor)
    backbone.processor.tokenizer.pad_token = None
    unpadded = LlavaBackbone(backbone.model, backbone.processor)
    assert len(unpadded.generate(image, ["Where?"], rows(1), **SHORT)) == 1
    with pytest.raises(InputError, match="no padding token"):
        unpadded.generate(pictures(2), ["a", "b"], rows(0, 0), **SHORT)
