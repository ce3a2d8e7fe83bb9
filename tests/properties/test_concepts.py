"""A saved concept loads unchanged; a damaged folder raises an error of ours or loads unchanged."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myvlm import Concept
from myvlm.concepts.embedding import Embedding
from myvlm.errors import MyVLMError
from myvlm.text import check_category, check_identifier
from tests.support.errors import check_said
from tests.support.taught import by_hand

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
plain: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(words, plain, max_size=3)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "concept"


def state(concept: Concept) -> dict[str, Any]:
    """The full state of a concept as comparable values."""
    meta, tensors = concept.head.state()
    return {
        "words": (concept.identifier, concept.spoken, concept.category, concept.kind),
        "recipe": concept.recipe,
        "meta": meta.model_dump(),
        "head": {name: (one.dtype.str, one.shape, one.tobytes()) for name, one in tensors.items()},
        "embeddings": {
            name: (
                one.directions.shape,
                one.directions.tobytes(),
                one.norm,
                one.prompt,
                one.fingerprint,
                one.settings,
                one.figures,
            )
            for name, one in concept.embeddings.items()
        },
    }


@st.composite
def embeddings(draw: st.DrawFn) -> Embedding:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7)))
    values = draw(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=21, max_size=21)
    )
    directions = np.array(values[: shape[0] * shape[1]], np.float32).reshape(shape)
    return Embedding(directions, draw(words), draw(words), draw(words), draw(objects), draw(objects))


def possible(check: Any) -> st.SearchStrategy[str]:
    def fits(word: str) -> bool:
        try:
            return bool(check(word))
        except MyVLMError:
            return False

    return words.filter(fits)


@given(
    possible(check_identifier),
    possible(check_identifier),
    possible(check_category),
    st.dictionaries(words, embeddings(), max_size=3),
    objects,
)
def test_a_concept_saved_and_loaded_is_itself(
    identifier: str, spoken: str, category: str, learned: dict[str, Embedding], recipe: dict[str, Any]
) -> None:
    made = Concept(identifier, category, by_hand().head, learned, recipe, spoken=spoken)
    with place() as folder:
        made.save(folder)
        for lazy in (False, True):
            loaded = Concept.load(folder, lazy=lazy)
            assert state(loaded) == state(made)
        loaded.save(folder)
        assert state(Concept.load(folder)) == state(made)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    concept = by_hand()
    return concept.save(tmp_path_factory.mktemp("whole") / "sks-mug")


@given(st.data())
def test_a_damaged_folder_is_an_error_of_ours_or_loads_exactly(whole: Path, data: st.DataObject) -> None:
    expected = state(Concept.load(whole))
    files = sorted(one.relative_to(whole) for one in whole.rglob("*") if one.is_file())
    file = data.draw(st.sampled_from(files))
    content = bytearray((whole / file).read_bytes())
    many = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=6)
    how = data.draw(st.sampled_from(["flip", "cut", "append", "insert", "swap", "drop", "json"]))
    if how == "flip":
        for at, value in data.draw(many):
            content[at] = value
    elif how == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    elif how == "append":
        content += data.draw(st.binary(min_size=1, max_size=9))
    elif how == "insert":
        at = data.draw(st.integers(0, len(content)))
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    with place() as folder:
        shutil.copytree(whole, folder)
        (folder / file).write_bytes(bytes(content))
        if how == "swap":
            (folder / file).write_bytes((whole / data.draw(st.sampled_from(files))).read_bytes())
        elif how == "drop":
            (folder / file).unlink()
        elif how == "json":
            file = Path("concept.json")
            changed = other_json(json.loads((whole / file).read_bytes()), data)
            text = json.dumps(changed, indent=2, ensure_ascii=False) + "\n"  # as it is written
            (folder / file).write_text(text, encoding="utf-8")
        try:
            loaded = Concept.load(folder)
        except MyVLMError as error:
            check_said(error)
        else:
            assert state(loaded) == expected


def other_json(record: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """The record with one value, at any depth, replaced or deleted."""
    at: Any = record
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
        inner = at[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            at = inner
            continue
        if data.draw(st.booleans()):
            del at[key]
        else:
            at[key] = data.draw(plain)
        return record
