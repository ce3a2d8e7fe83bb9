"""InstructBLIP: the contract, and an instruction that the Q-Former reads unchanged."""

from __future__ import annotations

import torch

from myvlm.backbones import backbone_for
from myvlm.backbones.qformer.instructblip import InstructBlipBackbone
from myvlm.testing import check_backbone
from tests.support.tiny import pictures
from tests.support.tiny_blip2 import tiny_instructblip

SKIPPED = ["kept_prefixes_change_nothing"]  # pictures are encoded again for each instruction


def test_instructblip_keeps_the_contract() -> None:
    backbone = backbone_for(*tiny_instructblip())
    assert type(backbone) is InstructBlipBackbone
    outcomes = check_backbone(backbone, pictures(3))
    assert [outcome.check for outcome in outcomes if not outcome.passed] == SKIPPED


def test_the_qformer_reads_the_instruction_as_it_is() -> None:
    backbone = InstructBlipBackbone(*tiny_instructblip())
    assert backbone.prompter.render("Where?") == "Where?"
    images = torch.stack(backbone.encode(pictures(1)))
    looked = [
        backbone.query_outputs(images, backbone.prompter.qformer_inputs([prompt]))
        for prompt in ("Where?", "Who?", "Where?")
    ]
    assert looked[0].shape == (1, 6, 32)
    assert torch.equal(looked[0], looked[2])
    assert not torch.allclose(looked[0], looked[1])


def test_instructions_of_different_lengths_are_read_as_each_alone() -> None:
    backbone = InstructBlipBackbone(*tiny_instructblip())
    read = backbone.prompter.qformer_inputs(["Where?", "What is next to sks?"])
    [mask, longer] = read["qformer_attention_mask"].tolist()
    assert mask == sorted(mask, reverse=True) != longer
    inputs = backbone.prompter.processed(pictures(2), ["Where?", "What is next to sks?"])
    for own in inputs["attention_mask"].tolist():
        assert own == sorted(own)  # padding comes before the picture, never between it and the text
