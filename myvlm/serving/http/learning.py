"""Learn concepts on the server, one at a time, in a thread beside the one that generates replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

from myvlm.api import MyVLM
from myvlm.concepts.concept import Concept
from myvlm.learning.dataset import Lesson
from myvlm.learning.progress import LearningProgress
from myvlm.serving.http.errors import Refusal
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Owners

Progress = dict[str, Any]


class _ClientGone(Exception):
    """Raised in the learning thread when the client has stopped waiting."""


@dataclass(frozen=True, eq=False)
class Enrolment:
    """A concept to learn, and its owner."""

    owner: str
    lesson: Lesson
    face_consent: bool = False


class Learner:
    """Learns concepts, one at a time, and stores them in their owners' libraries.

    Args:
        vlm: the model that learns; its own library is not changed.
        owners: the libraries.
        limits: bounds on concepts and on the queue.
    """

    def __init__(self, vlm: MyVLM, owners: Owners, limits: Limits) -> None:
        self.vlm, self.owners, self.limits = vlm, owners, limits
        self.queued = 0
        self._thread = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Start no more learning."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def queue_place(self) -> Iterator[None]:
        """A context that holds a place in the queue. Raises Refusal if it is full."""
        if self.queued >= self.limits.learners:
            raise Refusal(429, "Too many concepts are being learned.")
        self.queued += 1
        try:
            yield
        finally:
            self.queued -= 1

    def check(self, enrolment: Enrolment) -> None:
        """Raise, before the first step, the errors that would end learning when the concept is stored.

        Raises:
            Refusal: the owner has too many concepts.
            ConceptExistsError: the owner has a concept with that word.
            InputError: there is no such kind of head, or a face may not be stored with the owner's concepts.
        """
        kind, consent = enrolment.lesson.kind, enrolment.face_consent
        self.owners.storage(enrolment.owner).check_may_hold(kind, face_consent=consent)
        known = self.owners.library(enrolment.owner)
        if len(known) >= self.limits.concepts:
            raise Refusal(409, f"An owner may have at most {self.limits.concepts} concepts; erase some.")
        known.check_free(enrolment.lesson.identifier)

    async def learn(self, enrolment: Enrolment) -> AsyncGenerator[Progress | Concept]:
        """Yield progress while a concept is learned, and the concept once it is stored.

        If the generator is closed early, learning stops and nothing is stored.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Progress] = asyncio.Queue()
        stopped = Event()

        def report(learned: LearningProgress) -> None:
            if stopped.is_set():
                raise _ClientGone
            if learned.step:
                progress = {
                    "step": learned.step,
                    "of": learned.longest,
                    "loss": learned.loss,
                    "said": learned.said,
                }
                loop.call_soon_threadsafe(queue.put_nowait, progress)

        done = loop.run_in_executor(self._thread, self._learn, enrolment, report)
        coming = asyncio.ensure_future(queue.get())
        try:
            while not done.done():
                both: set[asyncio.Future[Any]] = {done, coming}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if coming.done():
                    yield coming.result()
                    coming = asyncio.ensure_future(queue.get())
            yield done.result()
        finally:
            stopped.set()
            coming.cancel()
            done.cancel()

    def _learn(self, enrolment: Enrolment, report: Callable[[LearningProgress], None]) -> Concept:
        alone = self.vlm.with_concepts()
        [concept] = alone.learn_many([enrolment.lesson], progress=report)
        owner = enrolment.owner
        with self.owners.lock(owner):
            self.owners.storage(owner).add(concept, face_consent=enrolment.face_consent)
            self.owners.drop_from_cache(owner)
        return concept
