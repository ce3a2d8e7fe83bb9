"""Wrong arguments of public calls raise a MyVLMError with got, expected and fix."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import myvlm as package
from myvlm import (
    AttentionMap,
    Concept,
    ConceptLibrary,
    Embedding,
    LearnSettings,
    Lesson,
    MyVLM,
    MyVLMError,
)
from tests.support.taught import COLOURS, Taught, around, by_hand

PHOTO = Image.effect_noise((40, 40), 60).convert("RGB")
ODD: dict[str, Any] = {
    "None": None,
    "a number": 3,
    "bytes": b"sks",
    "an object": object(),
    "a list": ["sks", 3],
    "a lone surrogate": "sks\ud800",
    "a path of no file": Path("gone") / "nothing.png",
    "an empty array": np.zeros((0, 0, 3), np.uint8),
}
"""Values that are wrong for most arguments; some are valid for some."""


class World:
    """The objects of the calls: a model with one concept, and the concept's folder."""

    def __init__(self, vlm: MyVLM, taught: Taught, place: Path) -> None:
        self.vlm = around(vlm, encoder=COLOURS)
        self.word = taught.word
        self.folder = shutil.copytree(taught.folder, place / "concepts" / "mug")
        self.vlm.concepts.add(self.folder)
        self.place = place

    def learn(self, **wrong: Any) -> object:
        right = {
            "identifier": "ohwx",
            "images": [PHOTO],
            "category": "mug",
            "captions": ["ohwx on a table ."],
        }
        given = {**right, "settings": LearnSettings(steps=1, views=1), "progress": False, **wrong}
        return self.vlm.learn(**given)

    def introduce(self, **wrong: Any) -> object:
        given: dict[str, Any] = {"identifier": "ohwx", "images": [PHOTO], "category": "mug", **wrong}
        return self.vlm.introduce(**given)


LLAVA = "tinyworld/llava"
RIGHT_EMBEDDING: dict[str, Any] = {
    "directions": np.ones((1, 2), np.float32), "norm": "none", "prompt": "", "fingerprint": "f",
}  # fmt: skip
RIGHT_LESSON: dict[str, Any] = {
    "identifier": "ohwx", "images": [PHOTO], "category": "mug", "captions": ["ohwx on a table ."],
    "settings": {"steps": 1, "views": 1},
}  # fmt: skip


def saved(world: World, **wrong: Any) -> object:
    """Save a concept made by hand with a wrong part."""
    return Concept("zwx", "mug", by_hand().head, **wrong).save(world.place / "by hand")


CALLS: dict[str, Callable[[World, Any], object]] = {
    "caption images": lambda w, odd: w.vlm.caption(odd),
    "caption one of images": lambda w, odd: w.vlm.caption([PHOTO, odd]),
    "caption prompt": lambda w, odd: w.vlm.caption(PHOTO, prompt=odd, max_new_tokens=1),
    "caption errors": lambda w, odd: w.vlm.caption(PHOTO, errors=odd, max_new_tokens=1),
    "ask images": lambda w, odd: w.vlm.ask(odd, "where is it ?"),
    "ask question": lambda w, odd: w.vlm.ask(PHOTO, odd, max_new_tokens=1),
    "caption generation max_new_tokens": lambda w, odd: w.vlm.caption(PHOTO, max_new_tokens=odd),
    "caption generation num_beams": lambda w, odd: w.vlm.caption(PHOTO, num_beams=odd, max_new_tokens=1),
    "caption generation temperature": lambda w, odd: w.vlm.caption(
        PHOTO, do_sample=True, temperature=odd, max_new_tokens=1
    ),
    "caption generation unknown": lambda w, odd: w.vlm.caption(PHOTO, no_such_option=odd),
    "caption generation generation_config": lambda w, odd: w.vlm.caption(
        PHOTO, generation_config=odd, max_new_tokens=1
    ),
    "chat image": lambda w, odd: w.vlm.chat(odd),
    "with_concepts concepts": lambda w, odd: w.vlm.with_concepts(odd),
    "ask errors": lambda w, odd: w.vlm.ask(PHOTO, "where is it ?", errors=odd, max_new_tokens=1),
    "ask generation": lambda w, odd: w.vlm.ask(
        PHOTO, "where is it ?", top_k=odd, do_sample=True, max_new_tokens=1
    ),
    "locate image": lambda w, odd: w.vlm.locate(odd, w.word),
    "locate identifier": lambda w, odd: w.vlm.locate(PHOTO, odd),
    "attention image": lambda w, odd: w.vlm.attention(odd, w.word),
    "attention identifier": lambda w, odd: w.vlm.attention(PHOTO, odd),
    "correct image": lambda w, odd: w.vlm.correct(odd, w.word, present=True),
    "correct identifier": lambda w, odd: w.vlm.correct(PHOTO, odd, present=True),
    "correct present": lambda w, odd: w.vlm.correct(PHOTO, w.word, present=odd),
    "correct box": lambda w, odd: w.vlm.correct(PHOTO, w.word, present=False, box=odd),
    "learn identifier": lambda w, odd: w.learn(identifier=odd),
    "learn images": lambda w, odd: w.learn(images=odd),
    "learn category": lambda w, odd: w.learn(category=odd),
    "learn captions": lambda w, odd: w.learn(captions=odd),
    "learn one caption": lambda w, odd: w.learn(captions=[odd]),
    "learn questions": lambda w, odd: w.learn(questions=odd),
    "learn one question": lambda w, odd: w.learn(questions=[odd]),
    "learn a pair": lambda w, odd: w.learn(questions=[("What is ohwx ?", odd)]),
    "learn negatives": lambda w, odd: w.learn(negatives=odd),
    "learn kind": lambda w, odd: w.learn(kind=odd),
    "learn head_options": lambda w, odd: w.learn(head_options=odd),
    "learn encoder": lambda w, odd: w.learn(head_options={"encoder": odd}),
    "learn a head option": lambda w, odd: w.learn(head_options={"false_alarm_rate": odd}),
    "learn settings": lambda w, odd: w.learn(settings=odd),
    **{
        f"learn setting {name}": lambda w, odd, name=name: w.learn(
            settings={"steps": 1, "views": 1, name: odd}
        )
        for name in LearnSettings.model_fields
    },
    "learn_many lessons": lambda w, odd: w.vlm.learn_many(odd),
    "learn_many lessons one": lambda w, odd: w.vlm.learn_many([odd]),
    "introduce identifier": lambda w, odd: w.introduce(identifier=odd),
    "introduce images": lambda w, odd: w.introduce(images=odd),
    "introduce category": lambda w, odd: w.introduce(category=odd),
    "introduce description": lambda w, odd: w.introduce(description=odd),
    "introduce negatives": lambda w, odd: w.introduce(negatives=odd),
    "introduce kind": lambda w, odd: w.introduce(kind=odd),
    "introduce head_options": lambda w, odd: w.introduce(head_options=odd),
    "relearn concept": lambda w, odd: w.vlm.relearn(odd, [PHOTO], progress=False),
    "relearn images": lambda w, odd: w.vlm.relearn(w.folder, odd, progress=False),
    "relearn captions": lambda w, odd: w.vlm.relearn(w.folder, [PHOTO], captions=odd, progress=False),
    "relearn questions": lambda w, odd: w.vlm.relearn(w.folder, [PHOTO], questions=odd, progress=False),
    "relearn negatives": lambda w, odd: w.vlm.relearn(
        w.folder, [PHOTO], negatives=odd, settings={"steps": 1, "views": 1}, progress=False
    ),
    "relearn settings": lambda w, odd: w.vlm.relearn(w.folder, [PHOTO], settings=odd, progress=False),
    "from_pretrained name": lambda w, odd: MyVLM.from_pretrained(odd),
    "from_pretrained device": lambda w, odd: MyVLM.from_pretrained("tinyworld/llava", device=odd),
    "from_pretrained dtype": lambda w, odd: MyVLM.from_pretrained("tinyworld/llava", device="cpu", dtype=odd),
    "from_pretrained encoder": lambda w, odd: MyVLM.from_pretrained(LLAVA, device="cpu", encoder=odd),
    "from_pretrained concepts": lambda w, odd: MyVLM.from_pretrained(LLAVA, device="cpu", concepts=odd),
    "from_pretrained model_options": lambda w, odd: MyVLM.from_pretrained(
        LLAVA, device="cpu", torch_dtype=odd
    ),
    "from_pretrained model_options attn_implementation": lambda w, odd: MyVLM.from_pretrained(
        LLAVA, device="cpu", attn_implementation=odd
    ),
    "MyVLM name": lambda w, odd: MyVLM(w.vlm.backbone.model, w.vlm.backbone.processor, name=odd),
    "MyVLM encoder": lambda w, odd: MyVLM(w.vlm.backbone.model, w.vlm.backbone.processor, encoder=odd),
    "MyVLM concepts": lambda w, odd: MyVLM(w.vlm.backbone.model, w.vlm.backbone.processor, concepts=odd),
    "MyVLM model": lambda w, odd: MyVLM(odd, w.vlm.backbone.processor),
    "MyVLM processor": lambda w, odd: MyVLM(w.vlm.backbone.model, odd),
    "concepts add concept_or_path": lambda w, odd: w.vlm.concepts.add(odd),
    "concepts add_all concepts_or_paths": lambda w, odd: w.vlm.concepts.add_all(odd),
    "concepts remove identifier": lambda w, odd: w.vlm.concepts.remove(odd),
    "concepts get": lambda w, odd: w.vlm.concepts[odd],
    "concepts correct image": lambda w, odd: w.vlm.concepts.correct(odd, w.word, present=True),
    "concepts correct identifier": lambda w, odd: w.vlm.concepts.correct(PHOTO, odd, present=True),
    "concepts correct present": lambda w, odd: w.vlm.concepts.correct(PHOTO, w.word, present=odd),
    "concepts correct box": lambda w, odd: w.vlm.concepts.correct(PHOTO, w.word, present=False, box=odd),
    "concepts confusable at_least": lambda w, odd: w.vlm.concepts.confusable(at_least=odd),
    "concepts separate identifiers": lambda w, odd: w.vlm.concepts.separate(odd, w.word),
    "concepts replace concept": lambda w, odd: w.vlm.concepts.replace(odd),
    "concepts rename old": lambda w, odd: w.vlm.concepts.rename(odd, "zwx"),
    "concepts rename new": lambda w, odd: w.vlm.concepts.rename(w.word, odd),
    "concepts recognise images": lambda w, odd: w.vlm.concepts.recognise(odd),
    "library concepts": lambda w, odd: ConceptLibrary(odd),
    "concepts load folder": lambda w, odd: ConceptLibrary.load(odd),
    "concept load path": lambda w, odd: Concept.load(odd),
    "concept save face_consent": lambda w, odd: by_hand().save("memory://wrong/sks", face_consent=odd),
    "concept push_to_hub repo_id": lambda w, odd: by_hand().push_to_hub(odd),
    "concept push_to_hub private": lambda w, odd: by_hand().push_to_hub("me/sks", private=odd),
    "concept push_to_hub face_consent": lambda w, odd: by_hand().push_to_hub("me", face_consent=odd),
    "concepts save folder": lambda w, odd: w.vlm.concepts.save(odd),
    "concepts save face_consent": lambda w, odd: w.vlm.concepts.save("memory://wrong", face_consent=odd),
    "library false_names_per_1000": lambda w, odd: ConceptLibrary(false_names_per_1000=odd),
    "concept url": lambda w, odd: saved(w, url=odd),
    "concept save path": lambda w, odd: by_hand().save(odd),
    "concept save include_photos": lambda w, odd: by_hand().save(w.place / "photos", include_photos=odd),
    "concept identifier": lambda w, odd: Concept(odd, "mug", by_hand().head),
    "concept category": lambda w, odd: Concept("sks", odd, by_hand().head),
    "concept head": lambda w, odd: Concept("sks", "mug", odd),
    "library device": lambda w, odd: ConceptLibrary(device=odd),
    "concepts load device": lambda w, odd: ConceptLibrary.load(w.folder.parent, device=odd),
    "concepts is_introduced identifier": lambda w, odd: w.vlm.concepts.is_introduced(odd),
    "concept load device": lambda w, odd: Concept.load(w.folder, device=odd),
    "concept embeddings": lambda w, odd: saved(w, embeddings={"a": odd}),
    "concept kind": lambda w, odd: saved(w, kind=odd),
    "concept spoken": lambda w, odd: saved(w, spoken=odd),
    "concept thumbnails": lambda w, odd: saved(w, thumbnails=odd),
    "concept folder": lambda w, odd: saved(w, folder=odd),
    **{
        f"embedding {name}": lambda w, odd, name=name: saved(
            w, embeddings={"a": Embedding(**{**RIGHT_EMBEDDING, name: odd})}
        )
        for name in ("norm", "prompt", "fingerprint", "settings", "figures")
    },
    **{
        f"lesson {name}": lambda w, odd, name=name: w.vlm.learn_many(
            [Lesson(**{**RIGHT_LESSON, name: odd})], progress=False
        )
        for name in ("images category captions questions negatives kind head_options settings".split())
    },
    "attention map overlay strength": lambda w, odd: AttentionMap(
        np.full((2, 2), 0.25, np.float32), PHOTO, "sks", (0, 0, 40, 40)
    ).overlay(odd),
    "concept recipe": lambda w, odd: Concept("sks", "mug", by_hand().head, recipe={"a": odd}).save(
        w.place / "recipe"
    ),
    "embedding directions": lambda w, odd: Embedding(odd, "none", "", "f"),
    "lesson identifier": lambda w, odd: w.vlm.learn_many(
        [Lesson(odd, [PHOTO], category="mug")], progress=False
    ),
}


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")  # for max_new_tokens=None
def test_no_call_lets_a_raw_error_through(
    vlm: MyVLM, taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usable values are used; all others are refused with got, expected and fix, and leave nothing behind."""
    monkeypatch.chdir(tmp_path)
    raw: list[str] = []
    refused = 0
    for call, made in CALLS.items():
        for odd, value in ODD.items():
            world = World(vlm, taught, tmp_path / f"{len(raw) + refused}" / call / odd)
            try:
                made(world, value)
            except MyVLMError as error:
                refused += 1
                if None in (error.got, error.expected, error.fix):
                    raw.append(f"{call}, {odd}: {error}")
                if list(world.vlm.concepts) != [world.word]:
                    raw.append(f"{call}, {odd}: the library is {world.vlm.concepts}")
            except Exception as error:
                raw.append(f"{call}, {odd}: {type(error).__name__}: {error}")
    assert raw == []
    assert refused > 350


TRUTH = {"progress", "erase", "lazy"}
"""Arguments of which only the truth value is used: every value is valid."""
BETWEEN_ROOMS = {
    "concepts on_add", "concepts set_head", "concepts check_free", "concepts present", "concepts add_learned",
    "concept embedding_for", "concept from_copy", "concept packed",
    "concept with_embedding", "concept learned_elsewhere", "concept how_again",
    "lesson settings over", "lesson settings view_seed", "reply instead",
    "attention map plot",
}  # fmt: skip
"""Called by other parts of the package with their own values; and matplotlib's own arguments."""
LABELS = {
    "MyVLM": "MyVLM", "ConceptLibrary": "library", "Concept": "concept", "Embedding": "embedding",
    "Lesson": "lesson",
}  # fmt: skip
"""Classes that users construct; all others are results, or checked by pydantic."""
METHODS = {
    "MyVLM": "", "ConceptLibrary": "concepts ", "Concept": "concept ", "AttentionMap": "attention map ",
    "LearnSettings": "lesson settings ", "Reply": "reply ",
}  # fmt: skip


def public_arguments() -> set[str]:
    """All arguments of all public calls, named as in `CALLS`."""
    needed = set()
    for name in package.__all__:
        kind = getattr(package, name)
        if name in LABELS:
            made = list(inspect.signature(kind).parameters)
            needed |= {f"{LABELS[name]} {argument}" for argument in made}
        ours = [base for base in kind.__mro__ if base.__module__.startswith("myvlm.")]
        for method, found in [pair for base in ours for pair in vars(base).items()]:
            found = getattr(found, "__func__", found)
            if inspect.isfunction(found) and not method.startswith("_"):
                _, *arguments = inspect.signature(found).parameters
                call = f"{METHODS.get(name, f'{name} ')}{method}"
                needed |= {f"{call} {argument}" for argument in arguments if call not in BETWEEN_ROOMS}
    return {row for row in needed if row.rpartition(" ")[2] not in TRUTH}


def test_every_argument_of_every_call_has_a_row() -> None:
    needed = public_arguments()
    assert len(needed) > 60
    assert sorted(row for row in needed if not any(f"{own} ".startswith(f"{row} ") for own in CALLS)) == []
