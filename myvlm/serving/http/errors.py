"""Error responses in the form that OpenAI's clients expect, without details of the server's disk."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from myvlm.errors import (
    ConceptExistsError,
    InputError,
    MissingFileError,
    MyVLMError,
    RemoteError,
    UnknownConceptError,
)

_log = logging.getLogger(__name__)

RETRY_AFTER = "1"
"""Seconds after which a client that got 429 may try again (`Retry-After`)."""
MAX_MESSAGE_CHARACTERS = 500
"""The most characters of an error message, which may quote what a client sent."""


class Refusal(HTTPException):
    """Raised to answer a request with an HTTP status and a message.

    >>> Refusal(429, "Too much is asked at once.").headers
    {'Retry-After': '1'}
    """

    def __init__(self, status: int, what: str) -> None:
        super().__init__(status, what, {"Retry-After": RETRY_AFTER} if status == 429 else None)


class AsciiJson(Response):
    """JSON in ASCII: a text may contain lone surrogates, which UTF-8 cannot encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class Streamed(StreamingResponse):
    """Server-sent events; closes `kept` when the stream ends, also if the client has disconnected."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str], *, kept: AsyncExitStack) -> None:
        super().__init__(events)
        self.kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.kept:
            await super().__call__(scope, receive, send)


def error_body(status: int, what: str) -> dict[str, Any]:
    """The JSON body of an error response.

    >>> error_body(404, "No such concept.")["error"]["type"]
    'invalid_request_error'
    """
    known = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}
    kind = "server_error" if status >= 500 else known.get(status, "invalid_request_error")
    return {"error": {"message": what[:MAX_MESSAGE_CHARACTERS], "type": kind, "param": None, "code": None}}


def error_response(status: int, what: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error response."""
    return AsciiJson(error_body(status, what), status, dict(headers or {}))


def as_refusal(error: Exception) -> Refusal:
    """The response to an exception: full details of a client's error, none of the server's.

    >>> as_refusal(UnknownConceptError("No concept 'sks'.", got="'sks'")).status_code
    404
    >>> as_refusal(OSError("/home/anna/secret")).detail
    'The server failed. You may send the request again.'
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TimeoutError):
        return Refusal(504, "The reply took too long.")
    if isinstance(error, UnknownConceptError):
        return Refusal(404, f"There is no concept {error.got} in this library.")
    if isinstance(error, ConceptExistsError):
        return Refusal(409, f"{error.what} Expected {error.expected}.")
    if isinstance(error, InputError) and not isinstance(error, MissingFileError):
        return Refusal(400, str(error))
    _log_without_values(error)
    if isinstance(error, RemoteError):
        return Refusal(503, "The concepts' storage cannot be reached. You may send the request again.")
    if isinstance(error, MyVLMError):
        return Refusal(500, "A concept or the model cannot be used. The server's log has the reason.")
    return Refusal(500, "The server failed. You may send the request again.")


def add_handlers(app: FastAPI) -> None:
    """Register handlers that answer all of an application's errors in this form."""

    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return error_response(error.status_code, str(error.detail), error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:3])
        return error_response(400, wrong)

    async def failed(request: Request, error: Exception) -> Response:
        refusal = as_refusal(error)
        return error_response(refusal.status_code, refusal.detail, refusal.headers)

    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(MyVLMError, failed)
    app.add_exception_handler(TimeoutError, failed)


def _log_without_values(error: Exception) -> None:
    """Log the type and place of an error, not its values, which may hold what a client sent."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = "\n".join(f"  {frame.filename}:{frame.lineno} {frame.name}" for frame in frames)
    what = error.what if isinstance(error, MyVLMError) else ""
    _log.error("%s %s\n%s", type(error).__name__, what, where)
