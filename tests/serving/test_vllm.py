"""The inputs for vLLM, interpreted here as vLLM does: one placeholder for each embedding.

`benchmarks/serving.py` does the same with vLLM itself.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from PIL import Image

from myvlm import MyVLM
from myvlm.backbones import ConceptRows
from myvlm.backbones.base import visual_norms
from myvlm.errors import BackboneError, ConceptFileError, InputError, MissingPackageError
from myvlm.serving import vllm as vllm_module
from myvlm.serving.checkpoint import export_vllm, write_for_vllm
from myvlm.serving.entering import engine_inputs
from myvlm.serving.vllm import VllmInput, VllmServer, engine_options, server_flags, vllm_inputs
from myvlm.tinyworld.fewshot import pictures as draw
from tests.support.taught import Taught, around, elsewhere
from tests.support.tiny_blip2 import tiny_blip2
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_recipes import TYPES
from tests.support.vllm_stand_in import StandIn

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # from a processor


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
    rows = [engine.words(one.embeddings)[1] - 64 for one in inputs]
    assert any(rows)
    assert not all(rows)
    for one, right, count in zip(inputs, expected, rows, strict=True):
        said = engine.generate(one.offline()["prompt_embeds"])
        assert one.reply(said).text == right.text
        assert one.reply(said).seen == right.seen
        assert bool(count) == bool(right.seen)


def test_where_nothing_is_seen_the_tokens_are_the_models_own(speaking: MyVLM, taught: Taught) -> None:
    picture = draw(taught.kit.other)[0]
    [one] = vllm_inputs(speaking, picture)
    backbone: Any = speaking.backbone
    [features] = backbone.encode([picture])
    ids = backbone.prompter.prompt_ids(backbone.caption_prompt, features.layout.text)
    place = ids.index(backbone.image_id)
    assert torch.equal(one.embeddings[place : place + len(features)], features.tokens.cpu())
    assert len(one.embeddings) == len(ids)


def test_a_renamed_concept_is_asked_for_and_named_by_its_new_name(speaking: MyVLM, taught: Taught) -> None:
    speaking.concepts.rename(taught.word, "zork")
    picture = seen(taught)[0]
    [one] = vllm_inputs(speaking, picture, prompt="what is zork next to ?")
    engine = StandIn(speaking)
    asked = engine.spelled(f"what is {taught.word} next to ?")
    assert asked in engine.words(one.embeddings)[0]
    assert one.reply(f" a {taught.word} .").text == "a zork ."


def test_a_concept_that_goes_unsaid_is_named_as_the_library_names_it(speaking: MyVLM, taught: Taught) -> None:
    [one] = vllm_inputs(speaking, seen(taught)[:1])
    concept = speaking.concepts[taught.word]
    said = f"a lamp next to {(concept.description or '').replace('the', 'a', 1)} ."
    assert one.reply(said).text == f"a lamp next to {taught.word} ."


def test_the_names_of_others_may_not_be_said(speaking: MyVLM, taught: Taught) -> None:
    speaking.concepts.add(elsewhere(taught, "zork"))
    there, away = vllm_inputs(speaking, [seen(taught)[0], draw(taught.kit.other)[0]], "Is zork here?")
    assert (there.unsaid, away.unsaid) == (["zork"], [])
    assert there.reply("no").absent == away.reply("no").absent == ("zork",)
    engine = StandIn(speaking)
    for one in (there, away):
        told = engine.spelled("There is no zork in this picture. Is zork here?")
        assert told in engine.words(one.embeddings)[0]


def test_a_server_is_spoken_with_by_the_official_client(speaking: MyVLM, taught: Taught, server: str) -> None:
    shown = pictures(taught) * 3
    four, tiny = VllmServer(speaking, server, at_once=4), VllmServer(speaking, server, model="tiny")
    with four.client, tiny.client:
        replies = four.caption(shown)
        answers = tiny.ask(shown[:2], "where is the mug ?")
    assert [reply.text for reply in replies] == [reply.text for reply in speaking.caption(shown)]
    assert [a.text for a in answers] == [a.text for a in speaking.ask(shown[:2], "where is the mug ?")]


def test_without_the_client_the_error_says_what_to_install(
    speaking: MyVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingPackageError, match=r"vLLM's server needs(.|\n)*myvlm\[vllm\]"):
        VllmServer(speaking, "http://localhost:1/v1")


def test_of_many_pictures_no_more_are_encoded_than_are_spoken_of(
    speaking: MyVLM, taught: Taught, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For files, the replies hold the names, not the pictures."""
    [picture] = seen(taught)[:1]
    for number in range(24):
        picture.save(tmp_path / f"{number:02}.png")
    made, most = [], []
    vllm_inputs_ = vllm_module.vllm_inputs

    def counted(*given: Any) -> Iterator[VllmInput]:
        for one in vllm_inputs_(*given):
            made.append(one)
            yield one

    said = VllmServer.reply

    def replied(self: VllmServer, one: VllmInput, sampling: Any) -> Any:
        most.append(len(made) - len(most))
        return said(self, one, sampling)

    monkeypatch.setattr(vllm_module, "vllm_inputs", counted)
    monkeypatch.setattr(VllmServer, "reply", replied)
    with (two := VllmServer(speaking, server, at_once=2)).client:
        replies = two.caption(tmp_path, max_tokens=4)
    assert len(replies) == 24
    assert max(most) <= 6
    assert [reply.picture for reply in replies] == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("family", ["Gemma 3", "PaliGemma", "GLM-4.1V", "T5"])
def test_a_family_that_vllm_takes_no_embeddings_of_is_refused(family: str) -> None:
    vlm = MyVLM(*(tiny_blip2(language="t5") if family == "T5" else FAMILIES[family]()))
    with pytest.raises(BackboneError, match="cannot be used with this model in vLLM"):
        next(vllm_inputs(vlm, []))
    with pytest.raises(BackboneError, match="cannot be used with this model in vLLM"):
        VllmServer(vlm, "http://127.0.0.1:9/v1")


WHOLE_TYPES = ["llava_next_video", "aya_vision", "aria"]
WHOLE = [*(name for name in FAMILIES if name.startswith("LLaVA-")), "InternVL", "Mistral 3", "Idefics3",
         "SmolVLM2", "HumanVLM", "BLIP-2", *WHOLE_TYPES]  # fmt: skip


@pytest.mark.parametrize("family", WHOLE)
def test_a_whole_prompts_embeddings_say_what_the_library_says(family: str) -> None:
    kinds = {"BLIP-2": lambda: tiny_blip2(language="opt"), **FAMILIES, **TYPES}
    vlm = MyVLM(*kinds[family]())
    backbone: Any = vlm.backbone
    shown = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (80, 40), "blue")]
    rows = [[ConceptRows(torch.ones(2, backbone.dim)), ConceptRows(-torch.ones(1, backbone.dim))], []]
    prompts = ["Describe the image.", "What is on the table?"]
    said = backbone.generate(shown, prompts, rows, max_new_tokens=6)
    suppressed = [] if family == "BLIP-2" else [backbone.prompter.sentinel_id]
    for entry, own, seen in zip(engine_inputs(backbone, shown, prompts, rows), said, rows, strict=True):
        assert set(entry.offline()) == {"prompt_embeds"}
        given = entry.embeddings[None]
        with torch.no_grad():
            speaks = backbone.model.language_model if family == "BLIP-2" else backbone.model
            ids = speaks.generate(
                inputs_embeds=given, attention_mask=torch.ones(given.shape[:2], dtype=torch.long),
                do_sample=False, max_new_tokens=6, suppress_tokens=suppressed if seen else None,
            )  # fmt: skip
        assert ids[0].tolist()[: len(own.token_ids)] == own.token_ids.tolist()
    assert engine_options(vlm) == {"enable_prompt_embeds": True}
    assert server_flags(vlm) == ["--enable-prompt-embeds"]


@pytest.mark.parametrize("family", ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL"])
def test_a_row_is_a_picture_of_one_token_in_the_place_of_a_word(family: str) -> None:
    vlm = MyVLM(*FAMILIES[family]())
    backbone: Any = vlm.backbone
    shown = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (80, 40), "blue")]
    rows = [[ConceptRows(torch.ones(2, backbone.dim)), ConceptRows(-torch.ones(1, backbone.dim))], []]
    said = list(
        zip(
            engine_inputs(backbone, shown, ["Describe."] * 2, rows), backbone.encode(shown), rows, strict=True
        )
    )
    for entry, features, own in said:
        count = sum(one.count for one in own)
        given = entry.offline()["multi_modal_data"]["image"]
        tokens, grids = given["image_embeds"], given["image_grid_thw"]
        assert torch.equal(tokens[: len(features), : backbone.dim], features.tokens)
        deeper = tokens[: len(features), backbone.dim :].split(backbone.dim, 1) if features.deepstack else ()
        assert all(torch.equal(a, b) for a, b in zip(deeper, features.deepstack, strict=True))
        norms = visual_norms(features.tokens)
        if own:
            assert torch.equal(
                tokens[len(features) :, : backbone.dim], torch.cat([r.entering(norms) for r in own])
            )
        assert not tokens[len(features) :, backbone.dim :].any()
        merged = backbone.model.config.vision_config.spatial_merge_size
        lengths = (grids.prod(-1) // merged**2).tolist()
        assert lengths == [len(features), *[1] * count]
        ids, places = placeholders(backbone, entry.offline()["prompt"], lengths)
        here = backbone.prompter.prompt_ids("Describe.", features.layout.text)
        here = torch.tensor([backbone.prompter.with_sentinels(here, own)])
        told = backbone.arguments(here, torch.ones_like(here), [here.shape[1]], [features.layout])
        assert ids == [
            backbone.image_id if one == backbone.prompter.sentinel_id else one for one in here[0].tolist()
        ]
        assert torch.equal(mrope(len(ids), places, (grids // torch.tensor([1, merged, merged])).tolist()),
                           told["position_ids"][-3:, 0])  # fmt: skip
    assert server_flags(vlm) == ["--enable-mm-embeds", "--trust-request-chat-template"]
    path, body = said[0][0].request()
    [message] = body["messages"]
    *pictures, text = message["content"]
    assert path == "/chat/completions"
    assert len(pictures) == 4
    assert text["text"] == said[0][0].offline()["prompt"]
    rendered = jinja2.Template(body["chat_template"]).render(messages=body["messages"])
    assert rendered == text["text"]
    grids = [loaded(one["image_embeds"]["image_grid_thw"]) for one in pictures]
    assert torch.equal(
        torch.stack(grids), said[0][0].offline()["multi_modal_data"]["image"]["image_grid_thw"]
    )
    sent = torch.cat([loaded(one["image_embeds"]["image_embeds"]) for one in pictures])
    assert torch.equal(sent, said[0][0].embeddings)


def placeholders(backbone: Any, prompt: str, lengths: list[int]) -> tuple[list[int], list[int]]:
    """The prompt's ids with one placeholder per token of each picture, and the positions of the pictures."""
    ids, places, left = [], [], list(lengths)
    for one in backbone.processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]:
        if one == backbone.image_id:
            places.append(len(ids))
            ids += [one] * left.pop(0)
        else:
            ids.append(one)
    assert not left
    return ids, places


def mrope(length: int, places: list[int], grids: list[list[int]]) -> torch.Tensor:
    """Positions as vLLM's Qwen classes compute them: 3 × S."""
    positions, at, start = [], 0, 0
    for place, grid in zip(places, grids, strict=True):
        positions.append(torch.arange(start, start + place - at).expand(3, -1))
        start += place - at
        cells = torch.cartesian_prod(*(torch.arange(side) for side in grid)).reshape(-1, 3).T
        positions.append(cells + start)
        start += max(grid)
        at = place + cells.shape[1]
    positions.append(torch.arange(start, start + length - at).expand(3, -1))
    return torch.cat(positions, 1)


def loaded(sent: str) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(sent)), weights_only=True)
    return tensor


def test_a_prompt_that_is_embeddings_is_spoken_of_by_a_server_too() -> None:
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from tests.support.vllm_stand_in import serving

    vlm = MyVLM(*FAMILIES["InternVL"]())
    shown = [Image.new("RGB", (40, 40), "red"), Image.new("RGB", (80, 40), "blue")]
    expected = vlm.caption(shown, max_new_tokens=8)
    engine = StandIn(vlm)
    with serving(engine) as url, (server := VllmServer(vlm, url)).client:
        said = server.caption(shown, max_tokens=8)
    assert [one.text for one in said] == [one.text for one in expected]
    assert [body["max_tokens"] for body in engine.asked] == [8, 8]


def test_a_concept_of_another_model_is_named(speaking: MyVLM, taught: Taught, llava: Any) -> None:
    other = MyVLM(*llava)
    other.concepts.add(dataclasses.replace(taught.concept, recipe={}, folder=None))
    with pytest.raises(ConceptFileError, match="learned for another model"):
        list(vllm_inputs(other, seen(taught)[0]))
    other.concepts.replace(dataclasses.replace(taught.concept, folder=None))
    [told] = vllm_inputs(other, seen(taught)[0])
    [plain] = vllm_inputs(MyVLM(*llava), seen(taught)[0])
    engine = StandIn(other)
    (words, tokens), (_, without) = engine.words(told.embeddings), engine.words(plain.embeddings)
    assert engine.spelled(f"{taught.word} is {taught.concept.description}.") in words
    assert tokens == without


def test_an_input_is_a_prompt_of_embeddings(speaking: MyVLM, taught: Taught) -> None:
    [one] = vllm_inputs(speaking, seen(taught)[0])
    assert isinstance(one, VllmInput)
    assert one.embeddings.shape[1] == speaking.backbone.dim
    assert not one.embeddings.requires_grad
    path, body = one.given.request()
    assert path == "/completions"
    assert torch.equal(loaded(body["prompt_embeds"]), one.embeddings)


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


def test_a_model_is_exported_in_its_own_dtype(tmp_path: Any) -> None:
    from safetensors.torch import load_file

    model, processor = FAMILIES["LLaVA-1.5"]()
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    folder = export_vllm(str(tmp_path / "half"), tmp_path / "export")
    weights = load_file(folder / "model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("kind", ["llava_next_video", "LLaVA-1.5", "LLaVA-NeXT, Mistral", "LLaVA-OneVision"])
def test_a_model_is_exported_once_under_the_names_that_vllm_reads(
    kind: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import torch as safetensors

    model, processor = {**FAMILIES, **TYPES}[kind]()
    if kind == "LLaVA-OneVision":  # as in the 0.5B checkpoint
        model.config.get_text_config().tie_word_embeddings = True
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    model.save_pretrained(tmp_path / "plain")
    plain = safetensors.load_file(tmp_path / "plain" / "model.safetensors")
    files: list[str] = []
    serialize = safetensors.serialize_file

    def written(tensors: Any, file: Any, **options: Any) -> None:
        files.append(Path(file).name)
        serialize(tensors, file, **options)

    monkeypatch.setattr(safetensors, "serialize_file", written)
    folder = write_for_vllm(model, processor, tmp_path / "export")
    assert files == ["model.safetensors"]
    weights = safetensors.load_file(folder / "model.safetensors")
    assert any(name.startswith("vision_tower.") for name in plain)
    expected = {
        name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in plain.items()
    }
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_a_name_with_a_capital_that_the_model_writes_small_gets_it_back(
    speaking: MyVLM, taught: Taught
) -> None:
    learned = speaking.concepts[taught.word]
    named = dataclasses.replace(learned, identifier=taught.word.capitalize(), spoken=taught.word.capitalize())
    speaking.concepts.remove(taught.word)
    speaking.concepts.add(named)
    [one] = vllm_inputs(speaking, seen(taught)[0])
    assert one.reply(f"a {taught.word} .").text == f"a {taught.word.capitalize()} ."
