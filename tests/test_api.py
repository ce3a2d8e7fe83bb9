"""`MyVLM`: its inputs, results and errors; the model is unchanged."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, LlamaForCausalLM

from myvlm import Concept, MyVLM, Reply
from myvlm.backbones import loading
from myvlm.errors import (
    ConceptExistsError,
    ConceptFileError,
    ImageError,
    InputError,
    MissingFileError,
    NotWritableError,
    UnknownBackboneError,
    UnknownConceptError,
)
from myvlm.speaking.batches import AT_ONCE
from myvlm.text import contains_word
from myvlm.tinyworld import FewShot, sample_picture
from myvlm.tinyworld.fewshot import pictures
from tests.support.records import rewrite
from tests.support.taught import Taught
from tests.support.teaching import teach

pytestmark = pytest.mark.usefixtures("unchanged")


# ---------------------------------------------------------------- one or many


def test_one_picture_gives_a_reply_and_many_give_a_list(vlm: MyVLM, tmp_path: Path) -> None:
    one, two = sample_picture(1), sample_picture(2)
    single = vlm.caption(one)
    assert isinstance(single, Reply)
    assert str(single) == single.text
    assert len(single.text.split()) > 3
    many = vlm.caption([one, two])
    assert [type(reply) for reply in many] == [Reply, Reply]
    assert many[0].token_ids == single.token_ids
    assert many[0].text != many[1].text
    [alone] = vlm.caption([two])
    assert alone.token_ids == many[1].token_ids
    one.save(tmp_path / "1.png")
    assert vlm.caption(tmp_path / "1.png").token_ids == single.token_ids
    [from_folder] = vlm.caption(tmp_path)
    assert from_folder.token_ids == single.token_ids
    assert vlm.caption(np.asarray(one)).token_ids == single.token_ids
    assert isinstance(vlm.ask(one, "where is this ?"), Reply)
    assert len(vlm.ask([one, two], "where is this ?")) == 2


def test_an_album_is_read_before_it_is_described_and_not_kept(
    vlm: MyVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(AT_ONCE + 1):
        sample_picture(number % 3).save(tmp_path / f"{number}.png")
    replies = vlm.caption(tmp_path)
    assert [reply.picture for reply in replies] == [tmp_path / f"{n}.png" for n in range(AT_ONCE + 1)]
    assert np.array_equal(replies[16].image, sample_picture(16 % 3))
    assert replies[16].token_ids == replies[1].token_ids
    assert isinstance(vlm.caption(sorted(tmp_path.iterdir())[:2])[0].picture, Image.Image)
    whole = (tmp_path / "16.png").read_bytes()
    (tmp_path / "16.png").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(vlm.backbone, "generate", lambda *_, **__: pytest.fail("before all were read"))
    with pytest.raises(ImageError, match=r"16\.png cannot be read"):
        vlm.caption(tmp_path)


def test_a_notebook_shows_a_large_photo_small(vlm: MyVLM) -> None:
    photo = Image.effect_noise((3000, 2000), 60).convert("RGB")
    reply = Reply("a <b>", (), photo)
    [encoded] = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', reply._repr_html_())
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).size == (640, 427)
    assert "a &lt;b&gt;" in reply._repr_html_()


def test_a_model_says_which_it_is_and_whom_it_knows(taught: Taught, fresh: MyVLM) -> None:
    assert repr(fresh) == f"MyVLM({fresh.backbone.name!r}, ConceptLibrary(empty))"
    fresh.concepts.add(taught.folder)
    assert repr(fresh) == f"MyVLM({fresh.backbone.name!r}, ConceptLibrary({taught.word}))"


def test_generic_is_of_its_own_thread(taught: Taught, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.concept)
    [shown] = pictures(taught.kit.present[:1])
    with fresh.generic():
        assert fresh.caption(shown).seen == ()
        with ThreadPoolExecutor(1) as beside:
            assert beside.submit(fresh.caption, shown).result().seen == (taught.word,)
    assert fresh.caption(shown).seen == (taught.word,)


def test_generic_is_plain_transformers_to_the_bit(taught: Taught, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.folder)
    shown = pictures(taught.kit.present)
    with fresh.generic():
        replies = fresh.caption(shown)
        with fresh.generic():
            assert fresh.caption(shown[0]).detections == ()
        assert fresh.caption(shown[0]).detections == ()
        looks = fresh.attention(shown[0], taught.word).values
    assert np.array_equal(looks, fresh.attention(shown[0], taught.word).values), "it is about the concept"
    assert [reply.token_ids for reply in replies] == plain_transformers(fresh, shown)
    assert [len(reply.detections) for reply in fresh.caption(shown)] == [1] * len(shown)


def plain_transformers(vlm: MyVLM, shown: list[Image.Image]) -> list[tuple[int, ...]]:
    """The model's output without this library."""
    model, processor = vlm.backbone.model, vlm.backbone.processor
    content = [{"type": "image"}, {"type": "text", "text": vlm.backbone.caption_prompt}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(
        text=[prompt] * len(shown), images=shown, padding=True, padding_side="left", return_tensors="pt"
    )
    with torch.no_grad():
        ids = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=64)
    ends = {processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id}
    new = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [tuple(token for token in row if token not in ends) for row in new]


# ---------------------------------------------------------------- a learned concept


def test_a_concept_from_disk_is_named_where_it_is_and_changes_nothing_elsewhere(
    taught: Taught, fresh: MyVLM
) -> None:
    fresh.concepts.add(taught.folder)
    present = fresh.caption(pictures(taught.kit.present))
    assert sum(contains_word(reply.text, taught.word) for reply in present) >= 5
    assert sum(reply.seen == (taught.word,) for reply in present) >= 5
    others = pictures(taught.kit.look_alike) + pictures(taught.kit.other)
    with fresh.generic():
        plain = fresh.caption(others)
    unseen = [(a, b) for a, b in zip(fresh.caption(others), plain, strict=True) if not a.seen]
    assert len(unseen) >= 9
    assert all(a.token_ids == b.token_ids for a, b in unseen)


def test_attention_is_a_map_over_the_picture(taught: Taught, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.folder)
    [picture] = pictures(taught.kit.present[:1])
    looks = fresh.attention(picture, taught.word)
    assert looks.values.shape == (8, 8)
    assert looks.values.sum() == pytest.approx(1, abs=1e-4)
    assert looks.overlay().size == picture.size
    with pytest.raises(UnknownConceptError, match="nobody"):
        fresh.attention(picture, "nobody")


def test_a_renamed_concept_speaks_the_new_word(taught: Taught, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.folder)
    shown = pictures(taught.kit.present)
    before = fresh.caption(shown)
    answer = fresh.ask(shown[0], f"what is next to {taught.word} ?")
    fresh.concepts.rename(taught.word, "My Old Cup")
    after = fresh.caption(shown)
    named = [i for i, reply in enumerate(before) if contains_word(reply.text, taught.word)]
    assert len(named) >= 5
    for i in named:
        assert after[i].seen == ("My Old Cup",)
        assert "My Old Cup" in after[i].text
        assert not contains_word(after[i].text, taught.word)
        assert after[i].token_ids == before[i].token_ids
    assert fresh.ask(shown[0], "what is next to My Old Cup ?").token_ids == answer.token_ids


# ---------------------------------------------------------------- bad input


def test_bad_photos(quick: MyVLM, kit: FewShot, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "cup.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff\xd8\xff not really")
    (tmp_path / "empty").mkdir()
    wrong = [
        ([], InputError, "no photos"),
        (tmp_path / "gone.jpg", MissingFileError, "gone.jpg"),
        (broken, ImageError, "cup.jpg"),
        (tmp_path / "empty", MissingFileError, "empty"),
        (str(tmp_path / "*.webp"), MissingFileError, r"\*\.webp"),
    ]
    for images, kind, message in wrong:
        with pytest.raises(kind, match=message):
            teach(quick, kit, images=images)
        with pytest.raises(kind, match=message):
            quick.caption(images)
    assert len(quick.concepts) == 0


def test_an_identifier_that_is_taken(taught: Taught, fresh: MyVLM) -> None:
    fresh.concepts.add(taught.folder)
    with pytest.raises(ConceptExistsError, match=taught.word):
        teach(fresh, taught.kit, identifier=taught.word.upper())
    assert list(fresh.concepts) == [taught.word]


def test_a_concept_file_that_is_not_whole(taught: Taught, fresh: MyVLM, tmp_path: Path) -> None:
    def spoiled(name: str, spoil: Any) -> Path:
        folder = tmp_path / name
        shutil.copytree(taught.folder, folder)
        spoil(folder)
        return folder

    def newer(folder: Path) -> None:
        record = json.loads((folder / "concept.json").read_text())
        (folder / "concept.json").write_text(json.dumps({**record, "format_version": 99}))

    def altered(folder: Path) -> None:
        file = next((folder / "embeddings").iterdir())
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(bytes(data))

    def cut(folder: Path) -> None:
        file = folder / "head.safetensors"
        file.write_bytes(file.read_bytes()[:-10])

    wrong = [
        ("newer", newer, "newer release"),
        ("altered", altered, "embeddings"),
        ("cut", cut, "was truncated"),
    ]
    for name, spoil, message in wrong:
        with pytest.raises(ConceptFileError, match=message):
            fresh.concepts.add(spoiled(name, spoil))
    with pytest.raises(MissingFileError, match="nowhere"):
        fresh.concepts.add(tmp_path / "nowhere")
    assert len(fresh.concepts) == 0


def test_a_concept_that_was_learned_for_another_model(taught: Taught, fresh: MyVLM, tmp_path: Path) -> None:
    shutil.copytree(taught.folder, tmp_path / "other")

    def other(record: dict[str, Any]) -> None:
        record["embeddings"]["tinyworld/llava"]["fingerprint"] = "0" * 64
        del record["recipe"]["description"]  # otherwise the concept is used as an introduced one

    rewrite(tmp_path / "other", other)
    fresh.concepts.add(tmp_path / "other")
    with pytest.raises(ConceptFileError, match="another model than tinyworld/llava"):
        fresh.attention(pictures(taught.kit.present[:1])[0], taught.word)
    without = pictures(taught.kit.other[:1])
    for shown in (taught.kit.photos(), without):  # with and without a detection
        with pytest.raises(ConceptFileError, match="another model than tinyworld/llava"):
            fresh.caption(shown)
    with fresh.generic():
        assert len(fresh.caption(without)) == 1


def test_a_model_opens_with_a_folder_of_concepts(
    taught: Taught, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(taught.folder, tmp_path / "mug")
    vlm = MyVLM.from_pretrained("tinyworld/llava", concepts=tmp_path)
    assert list(vlm.concepts) == [taught.word]
    assert caplog.text == ""
    assert vlm.caption(pictures(taught.kit.present[:1])[0]).seen == (taught.word,)
    MyVLM.from_pretrained("tinyworld/blip2", concepts=tmp_path)
    assert f"{taught.word!r} was learned for another model than tinyworld/blip2" in caplog.text
    with pytest.raises(MissingFileError, match="nowhere"):
        MyVLM.from_pretrained("tinyworld/llava", concepts=tmp_path / "nowhere")


def test_a_place_that_cannot_be_written(taught: Taught, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for place in (tmp_path / "file" / "concept", tmp_path / "full", tmp_path / "file"):
        with pytest.raises(NotWritableError, match=place.name):
            Concept.load(taught.folder).save(place)
    assert sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*")) == [
        "file",
        "full",
        "full/mine.txt",
    ]


def test_a_model_of_no_known_family() -> None:
    small = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(UnknownBackboneError, match="LlamaForCausalLM"):
        MyVLM(LlamaForCausalLM(small), None)
    with pytest.raises(UnknownBackboneError, match="tinyworld/lava"):
        MyVLM.from_pretrained("tinyworld/lava")
    with pytest.raises(UnknownBackboneError, match="no/such-model"):
        MyVLM.from_pretrained("no/such-model")


def test_a_device_or_dtype_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for device in ("gpu", "cuda", "cuda:1", "mps", "xpu", "meta"):
        with pytest.raises(InputError, match=rf"(?s)no device '{device}'.*expected: cpu\n.*--device"):
            MyVLM.from_pretrained("tinyworld/llava", device=device)
    for dtype in ("float8", "int8", torch.int8):
        named = r"(?s)loaded with dtype .*(int8|float8).*expected: auto, bfloat16"
        with pytest.raises(InputError, match=named):
            MyVLM.from_pretrained("tinyworld/llava", device="cpu", dtype=dtype)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:1"):
        loading.check_device(device)
    for device in ("cuda:2", "mps"):
        with pytest.raises(InputError, match="expected: cpu, cuda, cuda:0, cuda:1\n"):
            loading.check_device(device)


def test_concepts_that_are_no_library(vlm: MyVLM, concept: Concept) -> None:
    with pytest.raises(InputError, match=r"(?s)Invalid concept library.*list.*ConceptLibrary"):
        MyVLM(vlm.backbone.model, vlm.backbone.processor, concepts=[concept])  # type: ignore[arg-type]


def test_a_processor_comes_from_where_its_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def model(name: str, **options: Any) -> Any:
        asked["model"] = options
        raise OSError("no hub")

    monkeypatch.setattr(
        AutoProcessor, "from_pretrained", lambda name, **options: asked.update(processor=options)
    )
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", model)
    monkeypatch.setattr(loading, "check_device", lambda device: None)
    with pytest.raises(UnknownBackboneError, match="no hub"):
        MyVLM.from_pretrained(
            "a/model", device="cuda:1", revision="v2", token="t", quantization_config="4 bits"
        )
    assert asked["processor"] == {"revision": "v2", "token": "t"}
    more = {"quantization_config": "4 bits", "device_map": "cuda:1", "dtype": torch.bfloat16}
    assert asked["model"] == asked["processor"] | more
