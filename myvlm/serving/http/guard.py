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

from myvlm.serving.http.errors import Refusal, as_refusal, error_response
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Tokens

_log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
BODY_TYPES = ("application/json", "multipart/form-data")


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
        self.in_flight = 0
        self.held_bytes = 0

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
            await error_response(refusal.status_code, refusal.detail, refusal.headers)(scope, receive, answer)
        else:
            scope.setdefault("state", {})["access"] = access
            await self._run_app(scope, receive, answer, lambda: bool(status))
        finally:
            who = access.owner if access else "-"
            seconds = monotonic() - begun
            _log.info("%s %s %s %d %.2fs", who, scope["method"], _route_of(scope), status, seconds)

    def _access(self, headers: Headers) -> Access:
        access = self.tokens.access(headers.get("authorization"))
        if access is None:
            raise Refusal(401, "A token of this server is required: Authorization: Bearer …")
        if self.tokens.anonymous and not self._is_from_this_computer(headers):
            raise Refusal(403, "Pages of other hosts may not use this server.")
        return access

    def _is_from_this_computer(self, headers: Headers) -> bool:
        names = [f"//{headers.get('host', '')}"]
        if "origin" in headers:
            names.append(headers["origin"])
        try:
            return all(urlsplit(name).hostname in LOOPBACK for name in names)
        except ValueError:
            return False

    def _check(self, scope: Scope, headers: Headers) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] in ("POST", "PATCH", "PUT") and kind not in BODY_TYPES:
            raise Refusal(415, f"The body must be {' or '.join(BODY_TYPES)}.")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self.limits.body_bytes:
            raise Refusal(413, f"A request may have at most {self.limits.body_bytes} bytes.")
        if self.in_flight >= self.limits.requests:
            raise Refusal(429, "Too many requests at once.")

    async def _run_app(
        self, scope: Scope, receive: Receive, answer: Send, has_begun: Callable[[], bool]
    ) -> None:
        received, complete = 0, False

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()  # waits until the client disconnects
            try:
                async with timeout(self.limits.seconds):
                    message = await receive()
            except TimeoutError:
                raise Refusal(408, "The body did not arrive in time.") from None
            size = len(message.get("body", b""))
            received, self.held_bytes = received + size, self.held_bytes + size
            complete = not message.get("more_body", False)
            if received > self.limits.body_bytes:
                raise Refusal(413, f"A request may have at most {self.limits.body_bytes} bytes.")
            if self.held_bytes > self.limits.held_bytes:
                raise Refusal(429, "Too many requests at once.")
            return message

        self.in_flight += 1
        try:
            await self.app(scope, bounded, answer)
        except Exception as error:  # uvicorn would log its message, which may quote the client
            refusal = as_refusal(error)
            if has_begun():
                raise RuntimeError("A reply was interrupted.") from None
            await error_response(refusal.status_code, refusal.detail, refusal.headers)(scope, receive, answer)
        finally:
            self.in_flight -= 1
            self.held_bytes -= received


def _route_of(scope: Scope) -> Any:
    """The route's pattern, without the values from the client."""
    return getattr(scope.get("route"), "path", "-")
