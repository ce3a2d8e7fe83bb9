"""Models and processors passed by users: copied, changed later, with settings of their own."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from myvlm import MyVLM
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.backbones.registry import backbone_for
from myvlm.errors import BackboneError, ImageError, InputError
from myvlm.images import load_images, naming
from tests.support.taught import Taught
from tests.support.tiny import pictures, rows
from tests.support.tiny_blip2 import tiny_blip2, tiny_instructblip
from tests.support.tiny_families import FAMILIES


def test_a_copy_speaks_and_has_a_library_of_its_own(fresh: MyVLM, taught: Taught) -> None:
    fresh.concepts.add(taught.folder)
    shown = taught.kit.photos()[0]
    said = fresh.caption(shown)
    with fresh.generic():
        twin = copy.deepcopy(fresh)
        assert twin.caption(shown).seen == said.seen == (taught.word,)
    assert twin.caption(shown).token_ids == said.token_ids
    twin.concepts.rename(taught.word, "zork")
    assert list(fresh.concepts) == [taught.word]
    assert twin.backbone.model is not fresh.backbone.model


def test_another_process_is_sent_the_concepts_and_not_the_model(
    fresh: MyVLM, taught: Taught, tmp_path: Path
) -> None:
    fresh.concepts.add(taught.folder)
    shown = tmp_path / "shown.png"
    taught.kit.photos()[0].save(shown)
    [[found]] = fresh.concepts.recognise(shown)  # loads the encoder and makes the gate
    sent = pickle.dumps(fresh.concepts)
    assert len(sent) < 200_000, "an encoder was sent"
    read = f"""
import pickle, sys
library = pickle.loads(sys.stdin.buffer.read())
[[found]] = library.recognise({str(shown)!r})
library.rename({taught.word!r}, "zork")
library.remove("zork")
print(found.probability, len(library))
"""
    other = subprocess.run([sys.executable, "-c", read], input=sent, capture_output=True, check=True)
    assert other.stdout.decode().split() == [str(found.probability), "0"]
    with pytest.raises(InputError, match=r"(?s)cannot be pickled.*only its concepts.*from_pretrained"):
        pickle.dumps(fresh)


def test_a_model_whose_weights_have_no_values_is_refused() -> None:
    model, processor = FAMILIES["LLaVA-1.5"]()
    with pytest.raises(BackboneError, match=r"(?s)no values.*on the device meta.*from_pretrained"):
        MyVLM(model.to("meta"), processor)


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_words_that_the_tokenizer_gets_later_are_no_rows(name: str) -> None:
    model, processor = FAMILIES[name]()
    before, taught = backbone_for(model, processor), rows(1, seed=1)
    assert isinstance(before, CausalBackbone)
    asked = ["Where is zzyx ?"]
    before.generate(pictures(1), asked, taught, max_new_tokens=4)
    old = before.prompter.sentinel_id
    processor.tokenizer.add_tokens(["zzyx", "qqq"])
    assert processor.tokenizer.convert_tokens_to_ids("zzyx") == old
    after = backbone_for(model, processor)
    assert isinstance(after, CausalBackbone)
    assert before.prompter.sentinel_id == after.prompter.sentinel_id != old
    [said], [expected] = (
        one.generate(pictures(1), asked, taught, max_new_tokens=4) for one in (before, after)
    )
    assert said.token_ids.tolist() == expected.token_ids.tolist()
    losses = [
        one.answer_loss(one.encode(pictures(1)), asked, ["zzyx and qqq"], taught) for one in (before, after)
    ]
    assert torch.equal(losses[0].cross_entropy, losses[1].cross_entropy)


def test_one_reply_an_image_whatever_the_models_own_settings_say() -> None:
    model, processor = FAMILIES["LLaVA-1.5"]()
    backbone = backbone_for(model, processor)
    [expected] = backbone.generate(pictures(1), ["Where?"], rows(1), max_new_tokens=4)
    model.generation_config.update(num_beams=3, num_return_sequences=3)
    for given in (rows(1), [[]]):
        assert len(backbone.generate(pictures(1), ["Where?"], given, max_new_tokens=4)) == 1
    [said] = backbone.generate(pictures(1), ["Where?"], rows(1), max_new_tokens=4)
    assert said.token_ids.tolist() == expected.token_ids.tolist()
    assert model.generation_config.num_return_sequences == 3


def test_settings_that_transformers_refuses_are_named() -> None:
    model, processor = FAMILIES["LLaVA-1.5"]()
    backbone = backbone_for(model, processor)
    model.generation_config.penalty_alpha, model.generation_config.top_k = 0.6, 4
    with pytest.raises(InputError, match=r"(?s)its own settings.*generation_config\.penalty_alpha"):
        backbone.generate(pictures(1), ["Where?"], [[]])
    photos = load_images([Image.new("RGB", (40, 40)), Image.new("RGB", (1210, 6))])

    def encode(images: Any) -> None:
        if images[0].width > 1000:
            raise ValueError("too wide")

    with pytest.raises(ImageError, match=r"images\[1\]"), naming(photos, encode):
        raise InputError("No.") from ValueError("of transformers")  # still the picture's fault
    with pytest.raises(InputError, match=r"^No\.$"), naming(photos, encode):
        raise InputError("No.")


def test_stop_strings_find_their_tokenizer() -> None:
    model, processor = FAMILIES["Qwen2.5-VL"]()
    backbone = backbone_for(model, processor)
    options = {"max_new_tokens": 4, "stop_strings": ["no such text"]}
    [whole] = backbone.generate(pictures(1), ["Where?"], rows(1), max_new_tokens=4)
    [said] = backbone.generate(pictures(1), ["Where?"], rows(1), **options)
    assert said.text == whole.text
    model.generation_config.stop_strings = ["no such text"]
    [said] = backbone.generate(pictures(1), ["Where?"], rows(1), max_new_tokens=4)
    assert said.text == whole.text


@pytest.mark.parametrize("made", [tiny_blip2, tiny_instructblip])
def test_a_text_that_is_longer_than_learned_positions_is_refused(made: Callable[[], Any]) -> None:
    backbone = backbone_for(*made())
    with pytest.raises(InputError, match=r"(?s)too long for the model.*tokens.*at most"):
        backbone.generate(pictures(1), ["a mug on the table " * 100], [[]], max_new_tokens=1)
    features = backbone.encode(pictures(1))
    with pytest.raises(InputError, match="too long for the model"):
        backbone.answer_loss(features, ["a mug on the table " * 100], ["sks"], [[]])
    assert backbone.answer_loss(features, ["a mug on the table"], ["sks"], [[]]).cross_entropy > 0
