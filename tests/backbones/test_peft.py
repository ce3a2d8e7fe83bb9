"""Models wrapped by the real PEFT: adapters in layers take effect; what lies in the wrapper alone is refused.

Skipped without the package, which the extra `dev` installs; `test_parts.py` has stand-ins.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from myvlm import MyVLM
from myvlm.errors import BackboneError
from myvlm.testing import check_backbone
from tests.support.taught import COLOURS, check_same, state_of
from tests.support.tiny import pictures, tiny_llava

peft = pytest.importorskip("peft", reason='peft is not installed: pip install -e ".[dev]"')
# PEFT uses names that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft")
QUERIES = ["q_proj", "v_proj"]


def adapted(**changes: Any) -> tuple[Any, Any]:
    """A tiny LLaVA with a LoRA of some effect, and its processor."""
    model, processor = tiny_llava()
    model = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "target_modules": QUERIES, **changes}))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                weight.normal_(std=0.5)
    return model, processor


def said(vlm: MyVLM) -> str:
    return str(vlm.caption(pictures(1)[0], max_new_tokens=4))


@pytest.mark.parametrize("where", [QUERIES, [*QUERIES, "embed_tokens"]])
def test_a_model_with_lora_keeps_the_contract_and_says_what_peft_says(where: list[str]) -> None:
    model, processor = adapted(target_modules=where)
    vlm = MyVLM(model, processor, encoder=COLOURS)
    probe, prompt = vlm.backbone.probe(), vlm.backbone.caption_prompt
    inputs = probe.inputs(pictures(1), [prompt])
    with vlm.backbone.frozen(), torch.no_grad():
        theirs = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    [ours] = vlm.backbone.generate(pictures(1), [prompt], [[]], max_new_tokens=4)
    assert [ours.token_ids.tolist()] == probe.reply_ids(theirs, inputs)
    assert all(outcome.passed for outcome in check_backbone(vlm.backbone, pictures(3)))


def test_learning_leaves_the_adapter_as_it_was_and_what_is_to_be_trained_trainable() -> None:
    model, processor = adapted()
    vlm = MyVLM(model, processor, encoder=COLOURS)
    said(vlm)  # transformers adds hooks of its own at a model's first call
    before = state_of(model)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained
    vlm.learn(
        "sks", pictures(2), category="mug", captions=["sks a"] * 2, settings={"steps": 2, "views": 2},
        progress=False,
    )  # fmt: skip
    check_same(before, state_of(model))
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trained


def test_an_adapter_counts_while_it_is_on() -> None:
    model, processor = adapted()
    vlm = MyVLM(model, processor, encoder=COLOURS)
    on = said(vlm)
    with model.disable_adapter():
        off = said(vlm)
    assert on != off == said(MyVLM(*tiny_llava(), encoder=COLOURS))
    assert said(vlm) == on
    assert said(MyVLM(model.merge_and_unload(), processor, encoder=COLOURS)) == on


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_virtual_tokens_which_would_be_lost_are_refused(kind: str) -> None:
    model, processor = tiny_llava()
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    with pytest.raises(BackboneError, match=rf"(?s)virtual tokens.*{kind}.*get_base_model"):
        MyVLM(peft.get_peft_model(model, config), processor)
