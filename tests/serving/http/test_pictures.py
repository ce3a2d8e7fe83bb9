"""Uploads and the budget of open pixels, without a model."""

from __future__ import annotations

import asyncio
import io
from contextlib import AsyncExitStack
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import httpx
from fastapi import FastAPI, Request
from PIL import Image

from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access
from myvlm.serving.http.pictures import Budget, Pictures, router


class _WatchedPictures(Pictures):
    """Records whether each method ran in the event loop."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.in_loop: dict[str, bool] = {}

    def upload(self, owner: str, content: bytes) -> str:
        self.in_loop["upload"] = _in_event_loop()
        return super().upload(owner, content)

    def measure(self, content: bytes) -> int:
        self.in_loop["measure"] = _in_event_loop()
        return super().measure(content)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def test_an_upload_is_measured_in_a_thread_and_kept_in_the_event_loop() -> None:
    app = FastAPI()
    app.include_router(router)
    app.state.pictures = pictures = _WatchedPictures(Limits())

    @app.middleware("http")
    async def permit(request: Request, call_next: Any) -> Any:
        request.state.access = Access("anna")
        return await call_next(request)

    async def post() -> httpx.Response:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/files", files={"file": ("a.png", buffer.getvalue())})

    answer = asyncio.run(post())
    assert answer.status_code == 200, answer.text
    assert list(pictures.uploads("anna")) == [answer.json()["id"]]
    # threads that change one owner's uploads at once would disturb each other
    assert pictures.in_loop == {"measure": False, "upload": True}


def test_a_request_that_is_cancelled_just_before_its_turn_ends_as_cancelled() -> None:
    async def hold(budget: Budget) -> None:
        async with budget.acquire(1):
            pass

    async def run() -> None:
        budget = Budget(1)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(budget.acquire(1))
            waiting = [asyncio.ensure_future(hold(budget)) for _ in range(2)]
            await asyncio.sleep(0)
            waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        await waiting[1]
        assert budget.free == 1

    asyncio.run(run())
