"""Facts of published checkpoints that were once wrong here: prompts, endings, limits, ids, dates."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer

from myvlm import MyVLM
from myvlm.backbones import ConceptRows, backbone_for
from myvlm.backbones import tokens as text
from myvlm.backbones.causal.attention import record_attention
from myvlm.backbones.families.humanvlm import HumanVLMBackbone
from myvlm.backbones.families.minigpt.adapter import MiniGPTv2Backbone
from myvlm.images import load_images
from myvlm.learning import LearnSettings
from myvlm.learning.captions import write_captions
from tests.support.taught import COLOURS
from tests.support.tiny import pictures, tiny_llava
from tests.support.tiny_families import FAMILIES, paligemma
from tests.support.tiny_tokens import TEMPLATES

# PaliGemma's processor uses a numpy interface that numpy 2 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

# ------------------------------------------------------------------ Gemma 2 caps its scores


def gemma2(implementation: str) -> Any:
    torch.manual_seed(0)
    config = hf.Gemma2Config(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=4, attn_logit_softcapping=2.0,
        initializer_range=0.5, sliding_window=6,
    )  # fmt: skip
    config._attn_implementation = implementation
    return hf.Gemma2Model(config).eval()


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_capped_attention_is_run_and_recorded_as_eager_has_it(padding: str) -> None:
    model = gemma2("eager")
    embeds = torch.randn(2, 12, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
    rows = [[1] * 12, [1] * 9 + [0] * 3]
    mask = None if padding == "none" else torch.tensor([r[::-1] if padding == "left" else r for r in rows])
    queries, keys = torch.tensor([[11, 7], [8, 7]]), torch.tensor([[5, 9], [4, 6]])
    plain = model(inputs_embeds=embeds, attention_mask=mask, output_attentions=True)
    with record_attention(model.config, queries=queries, keys=keys) as recorder:
        recorded = model(inputs_embeds=embeds, attention_mask=mask)
    real = torch.ones(2, 12, dtype=torch.bool) if mask is None else mask.bool()
    torch.testing.assert_close(recorded.last_hidden_state[real], plain.last_hidden_state[real])
    for found, whole in zip(recorder.probabilities, plain.attentions, strict=True):
        for sample in range(2):
            expected = whole[sample][:, queries[sample]][:, :, keys[sample]]
            torch.testing.assert_close(found[sample], expected, rtol=1e-5, atol=1e-7)
    gradients = [
        torch.autograd.grad(out.last_hidden_state[real].pow(2).sum(), embeds, retain_graph=True)[0]
        for out in (plain, recorded)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert model.config._attn_implementation == "eager"


def test_paligemma_2_learns() -> None:
    model, processor = FAMILIES["PaliGemma 2"]()
    vlm = MyVLM(model, processor, name="paligemma2", encoder=COLOURS)
    captions = ["a photo of sks", "sks on the table", "sks next to a mug"]
    settings = LearnSettings(steps=2, views=1)
    concept = vlm.learn(
        "sks", pictures(3), category="mug", captions=captions, settings=settings, progress=False
    )
    assert concept.embeddings["paligemma2"].figures["cross_entropy"] > 0


# ------------------------------------------------------------------ PaliGemma's tasks


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Where is sks?", "answer en Where is sks?"),
        ("answer en Where?", "answer en Where?"),
        ("caption en", "caption en"),
        ("describe en", "describe en"),
        ("ocr", "ocr"),
        ("detect sks", "detect sks"),
        ("segment sks", "segment sks"),
        ("Describe the image.", "answer en Describe the image."),
    ],
)
def test_paligemma_is_asked_in_task_prompts(prompt: str, asked: str) -> None:
    backbone = backbone_for(*paligemma())
    assert backbone.prompter.render(prompt) == f"<image>{asked}"  # type: ignore[attr-defined]
    assert "cap en" not in backbone.caption_prompts  # a task of its pre-training, on noisy texts


def test_paligemma_is_told_nothing_before_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_for(*paligemma())
    asked: list[str] = []
    generate = backbone.generate

    def noting(images: Any, prompts: Any, rows: Any, **how: Any) -> Any:
        asked.extend(prompts)
        return generate(images, prompts, rows, max_new_tokens=2, **how)

    monkeypatch.setattr(backbone, "generate", noting)
    captions = write_captions(backbone, load_images(pictures(1)), identifier="sks", category="mug")
    assert set(asked) == {"caption en", "describe en"}
    assert all("sks" in caption for caption in captions[0])


# ------------------------------------------------------------------ MiniGPT-v2's marks


def test_minigpt_learns_captions_under_the_captions_mark() -> None:
    backbone = backbone_for(*FAMILIES["MiniGPT-v2"]())
    assert isinstance(backbone, MiniGPTv2Backbone)
    assert len(set(backbone.caption_prompts)) == 6
    for prompt in (backbone.caption_prompt, *backbone.caption_prompts):
        rendered = backbone.prompter.render(prompt)
        assert "</Img> [caption] " in rendered
        assert "[vqa]" not in rendered
    hinted = backbone.hinted("sks is the mug.", "[caption] Describe it.")
    assert backbone.prompter.render(hinted).endswith("[caption] sks is the mug. Describe it. [/INST]")


@pytest.mark.parametrize("scheme", ["always", "first"])  # Llama's `legacy` True and False
def test_minigpts_prompt_has_the_official_tokens(scheme: str) -> None:
    """The official code tokenizes the text before and after the picture separately: both start with `▁`."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"[]<>/ImgNSTacptionWhere?", "▁[", "▁<", "▁</", "</"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = hf.LlamaTokenizer(
        vocab=vocabulary,
        merges=[("▁", "["), ("▁", "<"), ("▁<", "/"), ("<", "/")],
        legacy=scheme == "always",
    )
    assert f'"prepend_scheme":"{scheme}"' in Tokenizer.to_str(tokenizer.backend_tokenizer)
    before, behind = "[INST] <Img>", "</Img> [caption] Where? [/INST]"
    apart = [
        tokenizer(before)["input_ids"], tokenizer(behind, add_special_tokens=False)["input_ids"]
    ]  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    template = MiniGPTv2Backbone.template.format(image="<image>", prompt="[caption] Where?")
    assert text.prompt_ids(tokenizer, template) == [*apart[0], image, *apart[1]]
    assert tokenizer.convert_ids_to_tokens(apart[1][0]) == "▁</"


# ------------------------------------------------------------------ dates, ends, fallbacks, gaps


@pytest.mark.parametrize("family", ["Mistral 3"])
def test_a_template_that_writes_the_date_writes_one_and_the_same(family: str) -> None:
    assert "strftime_now" in TEMPLATES["mistral3"]
    backbone = backbone_for(*FAMILIES[family]())
    rendered = backbone.prompter.render("Where?")  # type: ignore[attr-defined]
    assert re.findall(r"\d{4}-\d\d-\d\d", rendered) == ["2025-03-17"]
    assert 2000 < len(rendered) < 3000  # as long as the checkpoint's
    used = backbone.prompter.processed(pictures(1), ["Where?"])["input_ids"]  # type: ignore[attr-defined]
    assert "2025-03-17" in backbone.processor.tokenizer.decode(used[0])


def test_llama_3_has_two_ends_and_a_learned_caption_has_the_first() -> None:
    model, processor = FAMILIES["HumanVLM"]()
    processor.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<image>", "<|end_of_text|>", "<|eot_id|>"]}
    )
    model.resize_token_embeddings(len(processor.tokenizer) + 3)
    first, second = processor.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    model.generation_config.eos_token_id = second
    backbone = HumanVLMBackbone(model, processor)
    assert backbone.prompter.eos_ids == [first, second]
    for end in (first, second):
        assert backbone.prompter.reply(torch.tensor([20, end, 21]))[1].tolist() == [20]


def test_a_fallback_template_is_that_of_its_own_model() -> None:
    for family, prompt in {
        "LLaVA-OneVision": "<|im_start|>user\n<image>\nWhere?<|im_end|>\n<|im_start|>assistant\n",
        "Idefics3": "<|begin_of_text|>User:<image>Where?<end_of_utterance>\nAssistant:",
        "SmolVLM2": "<|im_start|>User:<image>Where?<end_of_utterance>\nAssistant:",
    }.items():
        model, processor = FAMILIES[family]()
        processor.chat_template = None
        assert backbone_for(model, processor).prompter.render("Where?") == prompt  # type: ignore[attr-defined]


def test_ids_with_gaps_leave_no_word_for_a_row() -> None:
    model, processor = tiny_llava(spare_ids=40)
    tokenizer = processor.tokenizer
    words, last = len(tokenizer), len(tokenizer) + 20
    vocabulary = {**tokenizer.get_vocab(), "far": last}
    tokenizer.get_vocab = lambda: vocabulary
    taken = {tokenizer.pad_token_id, tokenizer.eos_token_id}
    assert text.sentinel_id(model, tokenizer, taken) == last + 1 != words


def test_a_box_is_asked_for_without_a_penalty_for_repetition(
    fresh: MyVLM, monkeypatch: pytest.MonkeyPatch, taught: Any
) -> None:
    from myvlm.tinyworld.fewshot import pictures as scenes

    fresh.concepts.add(taught.folder)
    seen: list[dict[str, Any]] = []
    generate = fresh.backbone.generate

    def noting(images: Any, prompts: Any, rows: list[list[ConceptRows]], **how: Any) -> Any:
        seen.append(how)
        return generate(images, prompts, rows, **how)

    monkeypatch.setattr(fresh.backbone, "generate", noting)
    for picture in scenes(taught.kit.present[:2]):
        fresh.locate(picture, taught.word)
    assert seen
    assert all(how["repetition_penalty"] == 1.0 for how in seen)
