"""`generic()` applies to the thread or task inside its block, and what it yields is plain anywhere."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from myvlm import MyVLM
from myvlm.concepts.concept import Concept
from myvlm.concepts.embedding import Embedding
from myvlm.concepts.library import ConceptLibrary
from myvlm.tinyworld.fewshot import pictures
from tests.support.taught import Taught, around


@pytest.fixture
def shown(taught: Taught, fresh: MyVLM) -> Image.Image:
    """A picture of a known concept."""
    fresh.concepts.add(taught.concept)
    [picture] = pictures(taught.kit.present[:1])
    assert fresh.caption(picture).seen == (taught.word,)
    return picture


def test_what_it_yields_is_plain_in_other_threads_and_afterwards(
    fresh: MyVLM, shown: Image.Image, taught: Taught
) -> None:
    with fresh.generic() as plain, ThreadPoolExecutor(1) as beside:
        assert beside.submit(plain.caption, shown).result().seen == ()
        assert beside.submit(fresh.caption, shown).result().seen == (taught.word,)
        assert plain.concepts is fresh.concepts
    assert plain.caption(shown).seen == ()
    assert fresh.caption(shown).seen == (taught.word,)


def test_a_generator_whose_steps_run_in_other_contexts(
    fresh: MyVLM, shown: Image.Image, taught: Taught
) -> None:
    def said() -> Iterator[tuple[str, ...]]:
        with fresh.generic() as plain:
            yield fresh.caption(shown).seen
            yield plain.caption(shown).seen

    steps = said()
    first, second, last = contextvars.copy_context(), contextvars.copy_context(), contextvars.copy_context()
    assert first.run(next, steps) == ()
    assert fresh.caption(shown).seen == (taught.word,)
    assert second.run(next, steps) == ()
    assert last.run(next, steps, "done") == "done"
    assert first.run(fresh.caption, shown).seen == (taught.word,)  # it has ended where it was entered


def test_it_ends_for_tasks_that_outlive_it(fresh: MyVLM, shown: Image.Image, taught: Taught) -> None:
    async def run() -> list[tuple[str, ...]]:
        left = asyncio.Event()

        async def outlives() -> list[tuple[str, ...]]:
            within = fresh.caption(shown).seen
            await left.wait()
            return [within, fresh.caption(shown).seen]

        with fresh.generic():
            task = asyncio.create_task(outlives())
            await asyncio.sleep(0)
            in_thread = await asyncio.to_thread(fresh.caption, shown)
        left.set()
        return [in_thread.seen, *await task]

    assert asyncio.run(run()) == [(), (), (taught.word,)]


def test_blocks_of_two_models_and_within_one_another(
    vlm: MyVLM, fresh: MyVLM, shown: Image.Image, taught: Taught
) -> None:
    other = around(vlm)
    other.concepts.add(Concept.load(taught.folder))
    outer, inner = fresh.generic(), fresh.generic()
    with outer:
        assert other.caption(shown).seen == (taught.word,)
        with inner:
            pass
        assert fresh.caption(shown).seen == ()
    assert fresh.caption(shown).seen == (taught.word,)


# ---------------------------------------------------------------- models that share a library


def test_each_model_warns_of_what_it_has_yet_to_learn(
    vlm: MyVLM, taught: Taught, caplog: pytest.LogCaptureFixture
) -> None:
    library = ConceptLibrary()
    models = [MyVLM(vlm.backbone.model, vlm.backbone.processor, name=n, concepts=library) for n in ("a", "b")]
    other = Concept.load(taught.folder)
    [embedding] = other.embeddings.values()
    other.embeddings = {"c": Embedding(embedding.directions, embedding.norm, "", "other weights")}
    with caplog.at_level(logging.WARNING):
        library.add(other)
    assert [record.args[1] for record in caplog.records if record.args] == [m.backbone.name for m in models]


def test_fingerprints_are_looked_at_once(fresh: MyVLM, shown: Image.Image, taught: Taught) -> None:
    looked = []

    class Counted(dict[str, Embedding]):
        def values(self):  # type: ignore[no-untyped-def]
            looked.append(1)
            return super().values()

    concept = fresh.concepts[taught.word]
    concept.embeddings = Counted(concept.embeddings)
    [absent] = pictures(taught.kit.other[:1])
    for times in range(3):
        fresh.caption(absent)
        assert len(looked) == 0, times  # unchanged since `shown` was made
    fresh.concepts.replace(concept)
    del looked[:]
    for _ in range(3):
        fresh.caption(absent)
    assert len(looked) == 1
