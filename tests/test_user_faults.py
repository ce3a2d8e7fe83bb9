"""Problems that users of similar programs reported: each was once a raw error or a wrong result here."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
import unicodedata
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from myvlm import Concept, LearnSettings, MyVLM, MyVLMError
from myvlm.backbones import backbone_for
from myvlm.backbones.loading import load_model
from myvlm.backbones.tokens import as_written
from myvlm.cli.inputs import captions_for
from myvlm.concepts.collection import default_folder
from myvlm.concepts.library import ConceptLibrary
from myvlm.errors import ConceptExistsError, ImageError, InputError, UnknownBackboneError
from myvlm.evaluation.data.dataset import read_dataset
from myvlm.heads import Detection
from myvlm.images import load_images, naming
from myvlm.learning.dataset import in_order
from myvlm.results import AttentionMap, Reply
from myvlm.speaking.locating import Location
from myvlm.tinyworld import assets, few_shot
from tests.support.command import Myvlm
from tests.support.errors import check_said
from tests.support.taught import by_hand
from tests.support.tiny_families import FAMILIES

QUICK = LearnSettings(steps=2, views=1)
ODD = (1210, 6)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_learning_switches_gradients_on(
    quick: MyVLM, off: Callable[[], AbstractContextManager[None]]
) -> None:
    kit = few_shot(0, photos=1)
    captions = [f"{kit.identifier} on a table ."]
    settings = LearnSettings(steps=2, views=1)
    with off():
        learned = quick.learn(
            kit.identifier, kit.photos(), category=kit.category, captions=captions, settings=settings,
            progress=False,
        )  # fmt: skip
        assert not torch.is_grad_enabled()
    with_gradients = quick.relearn(learned, kit.photos(), settings=settings, progress=False)
    name = quick.backbone.name
    assert np.array_equal(learned.embeddings[name].directions, with_gradients.embeddings[name].directions)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"version https://git-lfs"]
)
def test_damaged_weights_are_an_error_of_ours(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(assets.path("llava"), folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(UnknownBackboneError, match=r"(?s)cannot be loaded.*download the weights again"):
        load_model(str(folder), device="cpu", dtype=None, model_options={})


def test_a_missing_package_is_named() -> None:
    options = {"attn_implementation": "flash_attention_2"}
    with pytest.raises(UnknownBackboneError, match=r"(?s)FlashAttention2.*install the missing package"):
        load_model("tinyworld/llava", device="cpu", dtype=None, model_options=options)


def test_a_path_is_a_models_name(tmp_path: Path) -> None:
    folder = tmp_path / "llava"
    shutil.copytree(assets.path("llava"), folder)
    assert MyVLM.from_pretrained(folder, device="cpu").backbone.family == "llava"


@pytest.mark.parametrize("older", [torch.bfloat16, "bfloat16"])
def test_the_older_name_of_dtype_counts(older: torch.dtype | str) -> None:
    assert (
        MyVLM.from_pretrained("tinyworld/llava", device="cpu", torch_dtype=older).backbone.dtype
        == torch.bfloat16
    )
    with pytest.raises(InputError, match=r"(?s)`dtype` and `torch_dtype` disagree.*torch_dtype"):
        MyVLM.from_pretrained("tinyworld/llava", device="cpu", dtype="float32", torch_dtype=older)


def test_whatever_is_wrong_with_a_models_files_or_options_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackboneError, match=r"(?s)no_such_option.*spelling of the options"):
        MyVLM.from_pretrained("tinyworld/llava", device="cpu", no_such_option=1)
    folder = tmp_path / "llava"
    shutil.copytree(assets.path("llava"), folder)
    for file in sorted(folder.glob("*.json")):
        whole = file.read_bytes()
        for spoilt in (b"", b"[]", b"{}", b"null", whole[: len(whole) // 2]):
            file.write_bytes(spoilt)
            try:
                MyVLM.from_pretrained(folder, device="cpu")
            except MyVLMError as error:
                check_said(error)
        file.write_bytes(whole)


def test_names_are_one_however_their_accents_are_written() -> None:
    apart, composed = (unicodedata.normalize(form, "Zo\xeb-0.png") for form in ("NFD", "NFC"))
    assert apart != composed
    assert in_order({composed: "a"}, [(apart,)], "captions") == ["a"]
    assert in_order({apart: "a"}, [(composed,)], "captions") == ["a"]


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "captions.json"
    file.write_text(json.dumps({"1.jpg": "sks"}), encoding="utf-8-sig")
    assert captions_for([Path("1.jpg")], [str(file)]) == [["sks"]]


def test_two_entries_that_are_one_name_are_an_error(tmp_path: Path) -> None:
    apart, composed = (unicodedata.normalize(form, "Zo\xeb.png") for form in ("NFD", "NFC"))
    with pytest.raises(InputError, match="two entries for one photo"):
        in_order({apart: "a", composed: "b"}, [(composed,)], "captions")
    file = tmp_path / "captions.json"
    for twice in (f'{{"{apart}": ["sks"], "{composed}": ["sks"]}}', '{"1.png": ["sks"], "1.png": ["sks"]}'):
        file.write_text(twice, encoding="utf-8")
        with pytest.raises(InputError, match="two entries are named"):
            captions_for([Path(composed)], [str(file)])


def test_files_are_found_whatever_system_wrote_their_names(tmp_path: Path) -> None:
    apart, composed = (unicodedata.normalize(form, "Zo\xeb") for form in ("NFD", "NFC"))
    folder = tmp_path / apart
    folder.mkdir()
    for number in (1, 2):
        Image.new("RGB", (4, 3)).save(folder / f"{apart}-{number}.png")
    assert len(load_images(tmp_path / composed)) == 2
    assert len(load_images(str(tmp_path / composed / f"{composed}-*.png"))) == 2
    assert load_images(tmp_path / composed / f"{composed}-1.png")[0].image.size == (4, 3)
    captions = {f"{composed}-{number}.png": ["sks here"] for number in (1, 2)}
    (folder / "captions.json").write_text("\ufeff" + json.dumps(captions), encoding="utf-8")
    [subject] = read_dataset(tmp_path).subjects
    assert [photo.captions for photo in subject.photos] == [("sks here",)] * 2
    manifest = {"subjects": [{"identifier": "sks", "category": "mug", "photos": [
        {"file": f"{composed}/{name}", "captions": text} for name, text in captions.items()]}]}  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps(manifest), encoding="utf-8")
    [subject] = read_dataset(tmp_path / "data.json").subjects
    assert all(photo.file.is_file() for photo in subject.photos)


def test_a_name_is_one_concept_however_its_accents_are_written(concept: Concept) -> None:
    apart, composed = (unicodedata.normalize(form, "Jos\xe9") for form in ("NFD", "NFC"))
    concept.identifier = concept.spoken = composed
    library = ConceptLibrary([concept])
    assert apart in library
    assert library[apart] is concept
    with pytest.raises(ConceptExistsError):
        library.add(Concept(apart, "mug", by_hand().head))
    assert library.rename(apart, unicodedata.normalize("NFD", "Zo\xeb")).identifier == "Zo\xeb"
    assert library.remove(unicodedata.normalize("NFD", "Zo\xeb")) is concept
    assert len(library) == 0


@pytest.mark.parametrize("word", ["<pad>", "<image>", "a <s> b"])
def test_a_special_token_is_no_name(quick: MyVLM, word: str) -> None:
    kit = few_shot(0, photos=1)
    with pytest.raises(InputError, match=r"(?s)special token.*got: .*<"):
        quick.learn(word, kit.photos(), category=kit.category, progress=False)
    assert not quick.concepts


def test_special_tokens_are_refused_in_all_texts_of_a_lesson(quick: MyVLM) -> None:
    kit = few_shot(0, photos=1)
    word, photos = kit.identifier, kit.photos()
    for captions, questions in (
        ([f"{word} <image> on a table"], None),
        ([f"{word} on a table</s>"], None),
        ([f"{word} on a table"], [[(f"<pad> is {word} red ?", "yes")]]),
        ([f"{word} on a table"], [[(f"is {word} red ?", "yes <image>")]]),
    ):
        with pytest.raises(InputError, match="special token"):
            quick.learn(
                word, photos, category=kit.category, captions=captions, questions=questions, settings=QUICK,
                progress=False,
            )  # fmt: skip
    assert not quick.concepts


def test_a_common_word_is_not_rewritten(quick: MyVLM, caplog: pytest.LogCaptureFixture) -> None:
    kit = few_shot(0, photos=1)
    captions = [f"{kit.identifier} in the fog ."]
    learned = quick.learn(
        kit.identifier, kit.photos(), category=kit.category, captions=captions, settings=QUICK, progress=False
    )
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        quick.concepts.rename(kit.identifier, "Blue")
    assert "also an ordinary word" in caplog.text
    asked: list[str] = []
    generate = quick.backbone.generate

    def listening(images: object, prompts: list[str], *others: object, **options: object) -> object:
        asked.extend(prompts)
        return generate(images, prompts, *others, **options)  # type: ignore[arg-type]

    quick.backbone.generate = listening  # type: ignore[assignment, method-assign]
    reply = quick.ask(kit.photos()[0], "is there a blue dog or Blue in the picture ?")
    assert reply.seen == ("Blue",)
    assert asked == [f"is there a blue dog or {learned.spoken} in the picture ?"]


def test_a_caption_in_lower_case_does_not_name(quick: MyVLM) -> None:
    kit = few_shot(0, photos=1)
    with pytest.raises(InputError, match="with its capital"):
        quick.learn("Blue", kit.photos(), category="dog", captions=["a blue dog ."], progress=False)


def test_a_name_that_the_tokenizer_writes_small_is_said_with_its_capital(quick: MyVLM) -> None:
    assert as_written(quick.backbone, "Ulmo") == "ulmo"
    kit = few_shot(0, photos=2)
    settings = LearnSettings(steps=30, views=1)
    learned = quick.learn(
        "Ulmo", kit.photos(), category=kit.category, captions=["Ulmo on a table ."] * 2, settings=settings,
        progress=False,
    )  # fmt: skip
    assert learned.identifier == "Ulmo"
    said = quick.caption(kit.photos())
    assert any("Ulmo" in reply.text for reply in said)
    assert not any("ulmo" in reply.text for reply in said)


@pytest.mark.parametrize("family", ["Qwen2-VL", "Mistral 3"])
def test_a_strip_is_an_error_that_names_the_picture(family: str) -> None:
    backbone = backbone_for(*FAMILIES[family]())
    pictures = [Image.new("RGB", size, (200, 10, 10)) for size in ((64, 48), ODD, (40, 40))]
    photos = load_images(pictures)
    with (
        pytest.raises(ImageError, match=r"(?s)cannot process images\[1\].*1210 by 6 pixels") as caught,
        naming(photos, backbone.encode),
    ):
        backbone.generate(pictures, ["what is it ?"] * 3, [[]] * 3, max_new_tokens=2)
    assert caught.value.number == 1


def test_what_no_picture_is_to_blame_for_stays_what_it_is() -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("nothing works")

    photos = load_images([Image.new("RGB", ODD)])
    with pytest.raises(ValueError, match=r"^nothing works$"), naming(photos, broken):
        broken()


@pytest.fixture
def no_strips(vlm: MyVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model as if its processor did not accept very narrow pictures."""

    def picky(method: Callable[..., object]) -> Callable[..., object]:
        def wrapped(images: list[Image.Image], *others: object) -> object:
            if any(image.width > 200 * image.height for image in images):
                raise ValueError("absolute aspect ratio must be smaller than 200")
            return method(images, *others)

        return wrapped

    from myvlm.backbones.families.llava import LlavaBackbone

    for name in ("encode", "_replies"):
        method = getattr(LlavaBackbone, name)
        bound = lambda self, *given, method=method: picky(lambda *a: method(self, *a))(*given)  # noqa: E731
        monkeypatch.setattr(LlavaBackbone, name, bound)


@pytest.mark.usefixtures("no_strips")
def test_a_strip_does_not_lose_the_album(myvlm: Myvlm, vlm: MyVLM) -> None:
    for name, size in (("1", (64, 48)), ("2", ODD), ("3", (48, 64))):
        Image.new("RGB", size, (10, 90, 200)).save(f"{name}.png")
    with pytest.raises(ImageError, match=r"^The model cannot process 2\.png") as caught:
        vlm.caption(["1.png", "2.png", "3.png"])
    assert caught.value.number == 1
    run = myvlm("caption", "1.png", "2.png", "3.png", "--json")
    assert run.code == 2
    first, second, third = run.document["pictures"]
    assert first["text"]
    assert third["text"]
    assert "2.png" in second["error"]["what"]
    alone = myvlm("caption", "2.png")
    assert alone.code == 2
    assert "2.png" in alone.stderr
    learning = myvlm("learn", "sks", "2.png", "--category", "mug", "--captions", "sks here")
    assert learning.code == 2
    assert "2.png" in learning.stderr


def test_a_data_address_is_a_picture() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (255, 0, 0)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    [one] = load_images(f"data:image/png;base64,{encoded}")
    assert (one.image.size, one.image.getpixel((0, 0)), one.path) == ((5, 4), (255, 0, 0), None)
    for wrong in (
        "data:image/png;base64," + "A" * 5000,
        "data:image/png;base64,%%",
        "data:,hello",
        "data:",
        encoded * 100,
        "A" * 5000 + ".png",
    ):
        with pytest.raises(InputError, match=r"(?s)got: .*expected: .*fix: "):
            load_images(wrong)


def test_brackets_in_a_folders_name_are_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "photos [2024]"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "a [1].jpg")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.jpg")
    assert len(load_images(f"{folder}/*.jpg")) == 1
    assert len(load_images(f"{folder}/a [*].jpg")) == 1
    assert len(load_images(f"{tmp_path}/**/*.jpg")) == 2
    assert len(load_images(f"{tmp_path}/[a-c].jpg")) == 1


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (1, 300), (1, 1)])
def test_strips_are_shown_in_a_notebook(size: tuple[int, int]) -> None:
    image, box = Image.new("RGB", size), (0.0, 0.0, float(size[0]), float(size[1]))
    found = Detection("sks", 0.9, True, box=box)
    values = np.full((4, 4), 1 / 16, np.float32)
    for shown in (
        Reply("sks", [found], image),
        AttentionMap(values, image, "sks", box),
        AttentionMap(values, image, "sks", (0.0, 0.0, 0.4, 0.4)),
        Location(box, "head", "", image),
        Location((3.0, 2.0, 0.0, 0.0), "model", "", image),
    ):
        assert "data:image/png;base64," in shown._repr_html_()


@pytest.mark.parametrize("word", [".NET", "..x", "<sks>", "S*", "-v"])
def test_a_concepts_folder_is_never_hidden(word: str) -> None:
    place = default_folder(word, "mug")
    assert not place.name.startswith(".")
    assert not set(place.name) & set('<>:"|?*')
