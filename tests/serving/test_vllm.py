"""What vLLM is given of a picture, read here as vLLM reads it: placeholders for embeddings, one each.

`benchmarks/serving.py` does the same with vLLM itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from myvlm import MyVLM
from myvlm.backbones import ConceptRows
from myvlm.errors import BackboneError, ConceptFileError, InputError
from myvlm.serving.checkpoint import export_vllm
from myvlm.serving.vllm import VllmInput, VllmServer, embeddings_of, engine_options, vllm_inputs
from myvlm.tinyworld.fewshot import pictures as draw
from tests.support.taught import Taught, around, elsewhere
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_families import FAMILIES
from tests.support.vllm_stand_in import StandIn


@pytest.fixture
def speaking(vlm: MyVLM, taught: Taught) -> MyVLM:
    own = around(vlm)
    own.concepts.add(taught.folder)
    return own


@pytest.fixture
def server(speaking: MyVLM) -> Iterator[str]:
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from tests.support.vllm_stand_in import serving

    with serving(StandIn(speaking)) as url:
        yield url


def seen(taught: Taught) -> list[Any]:
    return draw(taught.kit.present)


def pictures(taught: Taught) -> list[Any]:
    return [*seen(taught)[:3], *draw(taught.kit.other[:3])]


def test_a_picture_with_rows_says_what_the_library_says(speaking: MyVLM, taught: Taught) -> None:
    shown = pictures(taught)
    expected = speaking.caption(shown)
    engine = StandIn(speaking)
    inputs = list(vllm_inputs(speaking, shown))
    rows = [one.embeddings.shape[1] - 64 for one in inputs]
    assert any(rows)
    assert not all(rows)
    for one, right, count in zip(inputs, expected, rows, strict=True):
        given = one.offline()
        said = engine.generate(given["prompt"], given["multi_modal_data"]["image"])
        assert one.reply(said).text == right.text
        assert one.reply(said).seen == right.seen
        assert bool(count) == bool(right.seen)


def test_where_nothing_is_seen_the_tokens_are_the_models_own(speaking: MyVLM, taught: Taught) -> None:
    picture = draw(taught.kit.other)[0]
    [one] = vllm_inputs(speaking, picture)
    [features] = speaking.backbone.encode([picture])
    assert torch.equal(one.embeddings[0], features.tokens.cpu())


def test_a_renamed_concept_is_asked_for_and_named_by_its_new_name(speaking: MyVLM, taught: Taught) -> None:
    speaking.concepts.rename(taught.word, "zork")
    picture = seen(taught)[0]
    [one] = vllm_inputs(speaking, picture, prompt="what is zork next to ?")
    assert taught.word in one.prompt
    assert "zork" not in one.prompt
    assert one.reply(f" a {taught.word} .").text == "a zork ."


def test_the_names_of_others_may_not_be_said(speaking: MyVLM, taught: Taught) -> None:
    speaking.concepts.add(elsewhere(taught, "zork"))
    there, away = vllm_inputs(speaking, [seen(taught)[0], draw(taught.kit.other)[0]], "Is zork here?")
    assert (there.unsaid, away.unsaid) == (["zork"], [])
    assert there.reply("no").absent == away.reply("no").absent == ("zork",)
    assert "There is no zork in this picture. Is zork here?" in there.prompt


def test_a_server_is_spoken_with_by_the_official_client(speaking: MyVLM, taught: Taught, server: str) -> None:
    shown = pictures(taught) * 3
    four, tiny = VllmServer(speaking, server, at_once=4), VllmServer(speaking, server, model="tiny")
    with four.client, tiny.client:
        replies = four.caption(shown)
        answers = tiny.ask(shown[:2], "where is the mug ?")
    assert [reply.text for reply in replies] == [reply.text for reply in speaking.caption(shown)]
    assert [a.text for a in answers] == [a.text for a in speaking.ask(shown[:2], "where is the mug ?")]


def test_a_family_that_vllm_takes_no_embeddings_of_is_refused() -> None:
    with pytest.raises(BackboneError, match="image embeddings of this family"):
        next(vllm_inputs(MyVLM(*tiny_blip2(language="t5")), []))


def test_of_a_q_former_vllm_takes_what_its_queries_took_from_picture_and_concept() -> None:
    vlm = MyVLM(*tiny_blip2(language="opt"))
    backbone: Any = vlm.backbone
    shown = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    rows = [[ConceptRows(torch.ones(2, backbone.dim))], []]
    said = backbone.generate(shown, ["Describe the image."] * 2, rows, max_new_tokens=6)
    plain, with_rows = embeddings_of(backbone, shown[:1], [[]]), embeddings_of(backbone, shown, rows)
    assert [tuple(one.shape[:2]) for one in with_rows] == [(1, backbone.prompter.image_tokens)] * 2
    assert not torch.allclose(plain[0], with_rows[0])
    for picture, own in zip(with_rows, said, strict=True):
        ids = torch.tensor([backbone.prompter.prompt_ids("Describe the image.")])
        embeds = backbone.model.get_input_embeddings()(ids)
        embeds[ids == backbone.prompter.image_id] = picture[0]
        with torch.no_grad():
            new = backbone.model.language_model.generate(
                inputs_embeds=embeds, do_sample=False, max_new_tokens=6
            )
        assert new[0].tolist()[: len(own.token_ids)] == own.token_ids.tolist()
    assert engine_options(vlm) == {"enable_mm_embeds": True}
    with pytest.raises(BackboneError, match="no form of a chat"):
        VllmServer(vlm, "http://127.0.0.1:9/v1")


@pytest.mark.parametrize("family", ["LLaVA-NeXT, Vicuna", "LLaVA-OneVision", "InternVL"])
def test_rows_stand_behind_a_pictures_tokens_in_each_family(family: str) -> None:
    vlm = MyVLM(*FAMILIES[family]())
    backbone: Any = vlm.backbone
    shown = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (80, 40), "blue")]
    rows = [[ConceptRows(torch.ones(2, backbone.dim))], []]
    made = embeddings_of(backbone, shown, rows)
    for own, features, count in zip(made, backbone.encode(shown), (2, 0), strict=True):
        assert torch.equal(own[0, : len(features)], features.tokens)
        assert own.shape[1] == len(features) + count
    assert engine_options(vlm) == {"enable_mm_embeds": True, "max_num_seqs": 1}


def test_a_concept_of_another_model_is_named(speaking: MyVLM, taught: Taught, llava: Any) -> None:
    other = MyVLM(*llava)
    other.concepts.add(dataclasses.replace(taught.concept, recipe={}, folder=None))
    with pytest.raises(ConceptFileError, match="learned for another model"):
        list(vllm_inputs(other, seen(taught)[0]))
    other.concepts.replace(dataclasses.replace(taught.concept, folder=None))
    [told] = vllm_inputs(other, seen(taught)[0])
    [plain] = vllm_inputs(MyVLM(*llava), seen(taught)[0])
    assert f"{taught.word} is {taught.concept.description}." in told.prompt
    assert told.embeddings.shape == plain.embeddings.shape


def test_an_input_has_one_picture_and_a_batch_axis(speaking: MyVLM, taught: Taught) -> None:
    [one] = vllm_inputs(speaking, seen(taught)[0])
    assert isinstance(one, VllmInput)
    assert one.embeddings.shape[0] == 1
    assert not one.embeddings.requires_grad
    assert one.content()[1] == {"type": "text", "text": speaking.backbone.caption_prompt}


def test_an_exported_folder_has_the_names_that_vllm_reads_and_no_other_is_written_over(tmp_path: Any) -> None:
    from safetensors import safe_open

    folder = export_vllm("tinyworld/llava", tmp_path / "export")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert "vision_tower.vision_model.embeddings.class_embedding" in names
    assert "language_model.model.embed_tokens.weight" in names
    parts = ("vision_tower.vision_model.", "language_model.model.", "multi_modal_projector.")
    assert all(name.startswith(parts) for name in names)
    assert (folder / "tokenizer.json").is_file()
    with pytest.raises(InputError, match="not empty"):
        export_vllm("tinyworld/llava", folder)


def test_a_name_with_a_capital_that_the_model_writes_small_gets_it_back(
    speaking: MyVLM, taught: Taught
) -> None:
    learned = speaking.concepts[taught.word]
    named = dataclasses.replace(learned, identifier=taught.word.capitalize(), spoken=taught.word.capitalize())
    speaking.concepts.remove(taught.word)
    speaking.concepts.add(named)
    [one] = vllm_inputs(speaking, seen(taught)[0])
    assert one.reply(f"a {taught.word} .").text == f"a {taught.word.capitalize()} ."
