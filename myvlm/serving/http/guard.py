"""Middleware for access and size limits, checked before a request's body is read."""

from __future__ import annotations

import logging
from asyncio import timeout
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from myvlm.serving.http.errors import Refusal, as_refusal, refused
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Tokens

_log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
TYPES = ("application/json", "multipart/form-data")


class Guard:
    """Middleware that refuses requests without access and beyond the limits.

    If no token is needed, any web page in a browser on this computer could send requests. So those whose
    `Host` or `Origin` is another computer are refused (DNS rebinding, cross-site requests).

    Args:
        app: the application to guard.
        tokens: the access tokens.
        limits: bounds on requests and bodies.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens, limits: Limits) -> None:
        self.app, self.tokens, self.limits = app, tokens, limits
        self.inside = 0
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = monotonic()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        access = None
        try:
            access = self._access(Headers(scope=scope))
            self._check(scope, Headers(scope=scope))
        except Refusal as refusal:
            await refused(refusal.status_code, refusal.detail, refusal.headers)(scope, receive, answer)
        else:
            scope.setdefault("state", {})["access"] = access
            await self._enter(scope, receive, answer, lambda: bool(status))
        finally:
            who = access.owner if access else "-"
            seconds = monotonic() - begun
            _log.info("%s %s %s %d %.2fs", who, scope["method"], _where(scope), status, seconds)

    def _access(self, headers: Headers) -> Access:
        access = self.tokens.access(headers.get("authorization"))
        if access is None:
            raise Refusal(401, "A token of this server is needed: Authorization: Bearer …")
        if self.tokens.anonymous and not self._from_here(headers):
            raise Refusal(403, "Pages of other hosts may not talk to this server.")
        return access

    def _from_here(self, headers: Headers) -> bool:
        names = [f"//{headers.get('host', '')}"]
        if "origin" in headers:
            names.append(headers["origin"])
        try:
            return all(urlsplit(name).hostname in LOOPBACK for name in names)
        except ValueError:
            return False

    def _check(self, scope: Scope, headers: Headers) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] in ("POST", "PATCH", "PUT") and kind not in TYPES:
            raise Refusal(415, f"A body of {' or '.join(TYPES)} is expected.")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self.limits.body_bytes:
            raise Refusal(413, f"A request has at most {self.limits.body_bytes} bytes.")
        if self.inside >= self.limits.requests:
            raise Refusal(429, "Too much is asked at once.")

    async def _enter(self, scope: Scope, receive: Receive, answer: Send, begun: Callable[[], bool]) -> None:
        own, whole = 0, False

        async def bounded() -> Message:
            nonlocal own, whole
            if whole:
                return await receive()  # waits until the client disconnects
            try:
                async with timeout(self.limits.seconds):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, "The body did not come.") from None
            size = len(message.get("body", b""))
            own, self.held = own + size, self.held + size
            whole = not message.get("more_body", False)
            if own > self.limits.body_bytes:
                raise Refusal(413, f"A request has at most {self.limits.body_bytes} bytes.")
            if self.held > self.limits.held_bytes:
                raise Refusal(429, "Too much is asked at once.")
            return message

        self.inside += 1
        try:
            await self.app(scope, bounded, answer)
        except Exception as error:  # uvicorn would log its message, which may quote the client
            refusal = as_refusal(error)
            if begun():
                raise RuntimeError("A reply broke off.") from None
            await refused(refusal.status_code, refusal.detail, refusal.headers)(scope, receive, answer)
        finally:
            self.inside -= 1
            self.held -= own


def _where(scope: Scope) -> Any:
    """The route's pattern, without the values from the client."""
    return getattr(scope.get("route"), "path", "-")
