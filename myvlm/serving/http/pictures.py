"""Read the pictures of requests, from data URLs or uploads, after checking their size from the header.

No other source is accepted: the server never opens a path on its disk or a network address for a client.
"""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from myvlm.images import LoadedImage, load_images
from myvlm.serving.http.errors import AsciiJson, Refusal
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""The accepted formats; Pillow knows many more, which no camera writes."""
UPLOAD_PREFIX = "file-"

router = APIRouter()


class Budget:
    """A fair counting semaphore: takes several units at once; requests wait in order of arrival.

    Args:
        units: the total number.
    """

    def __init__(self, units: int) -> None:
        self.units = self.free = units
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def acquire(self, units: int) -> AsyncIterator[None]:
        """A context that holds so many units, or all units if there are fewer in total."""
        units = min(units, self.units)
        if self._waiting or units > self.free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((units, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(units)
                else:
                    with suppress(ValueError):  # `_release` has already skipped it
                        self._waiting.remove((units, turn))
                    self._release(0)
                raise
        else:
            self.free -= units
        try:
            yield
        finally:
            self._release(units)

    def _release(self, units: int) -> None:
        self.free += units
        while self._waiting and self._waiting[0][0] <= self.free:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.free -= wanted
                turn.set_result(None)


@dataclass
class _Uploads:
    """The uploads of one owner, the newest at the end."""

    files: OrderedDict[str, tuple[bytes, int]] = field(default_factory=OrderedDict)

    @property
    def nbytes(self) -> int:
        return sum(len(content) for content, _ in self.files.values())


class Pictures:
    """Reads the pictures of requests, and keeps owners' uploads, only in memory.

    Args:
        limits: of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = Budget(limits.open_pixels)
        self._uploads: dict[str, _Uploads] = {}

    def upload(self, owner: str, content: bytes) -> str:
        """Keep an owner's picture and return its name. The oldest are dropped if there are too many.

        Call it, as all that reads or changes uploads, in the event loop: it is not thread-safe.
        """
        own = self._uploads.setdefault(owner, _Uploads())
        name = UPLOAD_PREFIX + secrets.token_urlsafe(18)
        own.files[name] = content, int(time.time())
        while len(own.files) > 1 and own.nbytes > self.limits.uploads_bytes:
            own.files.popitem(last=False)
        return name

    def uploads(self, owner: str) -> dict[str, tuple[int, int]]:
        """The name of each upload of an owner → its size in bytes and time."""
        own = self._uploads.get(owner, _Uploads())
        return {name: (len(content), made) for name, (content, made) in own.files.items()}

    def forget(self, owner: str, name: str | None = None) -> bool:
        """Drop an owner's upload, or all; returns whether there was any."""
        if name is None:
            return self._uploads.pop(owner, None) is not None
        return self._uploads.get(owner, _Uploads()).files.pop(name, None) is not None

    def content(self, owner: str, url: str) -> bytes:
        """The file content of a picture in a request: a data URL, or the name of an upload of this owner.

        Raises:
            Refusal: it is neither, or too large.
        """
        if url.startswith(UPLOAD_PREFIX):
            known = self._uploads.get(owner, _Uploads()).files.get(url)
            if known is None:
                raise Refusal(
                    404,
                    "There is no such upload; old uploads are deleted when there are many. Upload it again.",
                )
            return known[0]
        about, comma, _ = url[:100].partition(",")
        if not (comma and about.lower().startswith("data:image/") and about.lower().endswith(";base64")):
            raise Refusal(
                400,
                "A picture must be data:image/…;base64,… or the ID of an upload (POST /v1/files); "
                "other addresses are not opened.",
            )
        if (len(url) - len(about)) * 3 // 4 > self.limits.picture_bytes + 3:
            raise Refusal(413, f"A picture may have at most {self.limits.picture_bytes} bytes.")
        try:
            return base64.b64decode(url[len(about) + 1 :], validate=True)
        except ValueError:
            raise Refusal(400, "The picture's address does not contain valid base64.") from None

    def measure(self, content: bytes) -> int:
        """The number of a picture's pixels according to its header, without decoding.

        Raises:
            Refusal: it is no picture, or too large.
        """
        if len(content) > self.limits.picture_bytes:
            raise Refusal(413, f"A picture may have at most {self.limits.picture_bytes} bytes.")
        with _open(content) as picture:
            width, height = picture.size
        if width * height > self.limits.pixels:
            raise Refusal(
                413, f"A picture may have at most {self.limits.pixels} pixels, not {width} × {height}."
            )
        return width * height

    @asynccontextmanager
    async def read(self, owner: str, urls: list[str]) -> AsyncIterator[list[LoadedImage]]:
        """A context with decoded pictures; waits while too many pixels of other requests are open.

        Raises:
            Refusal: one of the pictures cannot be used.
        """
        contents = [self.content(owner, url) for url in urls]
        async with self.open.acquire(sum(self.measure(content) for content in contents)):
            yield [await asyncio.to_thread(_decode, content, place) for place, content in enumerate(contents)]


def _open(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception:  # Pillow raises almost any type
        raise Refusal(400, f"The file is not a picture; expected one of {', '.join(FORMATS)}.") from None


def _decode(content: bytes, place: int) -> LoadedImage:
    try:
        with _open(content) as picture:
            [loaded] = load_images(picture)
    except Exception:  # of any type, and the message may quote what was sent
        raise Refusal(400, "The picture is damaged or truncated.") from None
    return LoadedImage(loaded.image, f"picture {place + 1}")


@router.post("/v1/files")
async def upload(request: Request) -> AsciiJson:
    """Upload a picture, one file of a form; it is kept in memory, and later requests can name it."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    content = await _file(request, pictures.limits)
    await asyncio.to_thread(pictures.measure, content)
    name = pictures.upload(access.owner, content)
    return AsciiJson(_document(name, len(content), int(time.time())))


@router.get("/v1/files")
async def uploads(request: Request) -> AsciiJson:
    """List the client's uploads."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    known = pictures.uploads(access.owner).items()
    documents = [_document(name, *about) for name, about in known]
    return AsciiJson({"object": "list", "data": documents, "has_more": False})


@router.delete("/v1/files/{name}")
async def forget(request: Request, name: str) -> AsciiJson:
    """Delete one of the client's uploads."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    if not pictures.forget(access.owner, name):
        raise Refusal(404, "There is no such upload.")
    return AsciiJson({"id": name, "object": "file", "deleted": True})


async def _file(request: Request, limits: Limits) -> bytes:
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=4, max_part_size=1024)
    parser.spool_max_size = limits.body_bytes  # keeps it in memory: pictures never reach the disk
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        raise Refusal(400, "Expected a form with one file.") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refusal(400, "Expected a form with one file, named file.")
        return await file.read()
    finally:
        await form.close()


def _document(name: str, size: int, made: int) -> dict[str, Any]:
    return {
        "id": name,
        "object": "file",
        "bytes": size,
        "created_at": made,
        "filename": name,
        "purpose": "vision",
        "status": "processed",
    }
