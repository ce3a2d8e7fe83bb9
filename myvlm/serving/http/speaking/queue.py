"""`BatchQueue`: dynamic batching of requests that arrive while a batch is processed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    made: asyncio.Future[Result]


class BatchQueue(Generic[Item, Result]):
    """Processes queued items in one thread, in batches, in order of arrival.

    If a batch fails, each of its items is tried alone, so that one client's input does not fail another's.

    Args:
        work: returns one result for each item of a batch.
        key: only items with equal keys share a batch.
        at_most: items in a batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        key: Callable[[Item], Hashable],
        at_most: int,
    ) -> None:
        self.work, self.key, self.at_most = work, key, at_most
        self.sizes: deque[int] = deque(maxlen=1000)
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._thread = ThreadPoolExecutor(1)
        self._runner: asyncio.Task[None] | None = None

    async def process(self, item: Item) -> Result:
        """The result for an item. Items whose caller has been cancelled are skipped."""
        one: _Waiting[Item, Result] = _Waiting(item, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await one.made

    def close(self) -> None:
        """Start no more work."""
        self._waiting.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while batch := self._next_batch():
            self.sizes.append(len(batch))
            loop = asyncio.get_running_loop()
            try:
                made = await loop.run_in_executor(self._thread, self.work, [one.item for one in batch])
            except Exception as error:
                await self._retry_alone(batch, error)
            else:
                for one, result in zip(batch, made, strict=True):
                    if not one.made.done():
                        one.made.set_result(result)

    async def _retry_alone(self, batch: list[_Waiting[Item, Result]], error: Exception) -> None:
        for one in batch:
            if one.made.done():
                continue
            if len(batch) == 1:
                one.made.set_exception(error)
                continue
            try:
                loop = asyncio.get_running_loop()
                [result] = await loop.run_in_executor(self._thread, self.work, [one.item])
            except Exception as own:
                if not one.made.done():
                    one.made.set_exception(own)
            else:
                if not one.made.done():
                    one.made.set_result(result)

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """The first waiting item and later ones with the same key, up to a batch."""
        batch: list[_Waiting[Item, Result]] = []
        others: list[_Waiting[Item, Result]] = []
        while self._waiting and len(batch) < self.at_most:
            one = self._waiting.popleft()
            if one.made.done():
                continue  # its caller was cancelled
            goes_with = not batch or self.key(one.item) == self.key(batch[0].item)
            (batch if goes_with else others).append(one)
        self._waiting.extendleft(reversed(others))
        return batch
