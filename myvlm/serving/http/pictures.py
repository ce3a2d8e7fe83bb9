"""Pictures of clients: in a data address, or uploaded before; measured before they are decoded.

Nothing else is a picture here: no path of the server's disk and no address on a network is ever opened.
"""

from __future__ import annotations

import asyncio
import base64
import io
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
"""What is decoded: Pillow knows many more, which no camera writes."""
UPLOADED = "file-"

router = APIRouter()


class Budget:
    """Units that are taken and given back; who finds too few waits, first come, first served.

    Args:
        units: that there are.
    """

    def __init__(self, units: int) -> None:
        self.units = self.free = units
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, units: int) -> AsyncIterator[None]:
        """Within it so many units are taken, all of them where there are not so many."""
        units = min(units, self.units)
        if self._waiting or units > self.free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((units, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(units)
                else:
                    self._waiting.remove((units, turn))
                    self._give(0)
                raise
        else:
            self.free -= units
        try:
            yield
        finally:
            self._give(units)

    def _give(self, units: int) -> None:
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
    """Reads the pictures of requests, and keeps what owners uploaded, in memory alone.

    Args:
        limits: of pictures.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.open = Budget(limits.open_pixels)
        self._uploads: dict[str, _Uploads] = {}

    def upload(self, owner: str, content: bytes) -> str:
        """Keep a picture of an owner; what it goes by from now on. The oldest go where there are too many."""
        self.measure(content)
        own = self._uploads.setdefault(owner, _Uploads())
        name = UPLOADED + secrets.token_urlsafe(18)
        own.files[name] = content, int(time.time())
        while len(own.files) > 1 and own.nbytes > self.limits.uploads_bytes:
            own.files.popitem(last=False)
        return name

    def uploads(self, owner: str) -> dict[str, tuple[int, int]]:
        """Size in bytes and time of each upload of an owner, by name."""
        own = self._uploads.get(owner, _Uploads())
        return {name: (len(content), made) for name, (content, made) in own.files.items()}

    def forget(self, owner: str, name: str | None = None) -> bool:
        """Let go of an upload of an owner, or of all; whether there was any."""
        if name is None:
            return self._uploads.pop(owner, None) is not None
        return self._uploads.get(owner, _Uploads()).files.pop(name, None) is not None

    def content(self, owner: str, url: str) -> bytes:
        """The bytes of a picture that a request names: a data address, or an upload of this owner.

        Raises:
            Refusal: it is neither, or too large.
        """
        if url.startswith(UPLOADED):
            known = self._uploads.get(owner, _Uploads()).files.get(url)
            if known is None:
                raise Refusal(404, "No such upload; they are let go of when there are many. Send it again.")
            return known[0]
        about, comma, _ = url[:100].partition(",")
        if not (comma and about.lower().startswith("data:image/") and about.lower().endswith(";base64")):
            raise Refusal(
                400,
                "A picture is given as data:image/…;base64,… or by the name of an upload (POST /v1/files); "
                "no other address is opened.",
            )
        if (len(url) - len(about)) * 3 // 4 > self.limits.picture_bytes + 3:
            raise Refusal(413, f"A picture has at most {self.limits.picture_bytes} bytes.")
        try:
            return base64.b64decode(url[len(about) + 1 :], validate=True)
        except ValueError:
            raise Refusal(400, "The picture's address holds no base64.") from None

    def measure(self, content: bytes) -> int:
        """The number of a picture's pixels, by what its first bytes say; none of them is decoded.

        Raises:
            Refusal: it is none, or too large.
        """
        if len(content) > self.limits.picture_bytes:
            raise Refusal(413, f"A picture has at most {self.limits.picture_bytes} bytes.")
        with _opened(content) as picture:
            width, height = picture.size
        if width * height > self.limits.pixels:
            raise Refusal(413, f"A picture has at most {self.limits.pixels} pixels, not {width} × {height}.")
        return width * height

    @asynccontextmanager
    async def read(self, owner: str, urls: list[str]) -> AsyncIterator[list[LoadedImage]]:
        """Within it these pictures are open; it waits while too many others are.

        Raises:
            Refusal: one of them cannot be used.
        """
        contents = [self.content(owner, url) for url in urls]
        async with self.open.taken(sum(self.measure(content) for content in contents)):
            yield [
                await asyncio.to_thread(_decoded, content, place) for place, content in enumerate(contents)
            ]


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception:  # Pillow raises almost anything
        raise Refusal(400, f"That is no picture: one of {', '.join(FORMATS)} is expected.") from None


def _decoded(content: bytes, place: int) -> LoadedImage:
    try:
        with _opened(content) as picture:
            [loaded] = load_images(picture)
    except Exception:  # and its messages quote what was sent
        raise Refusal(400, "The picture is broken or cut short.") from None
    return LoadedImage(loaded.image, f"picture {place + 1}")


@router.post("/v1/files")
async def upload(request: Request) -> AsciiJson:
    """Keep a picture in memory, to be named in later requests; it comes as one file of a form."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    content = await _file(request, pictures.limits)
    name = await asyncio.to_thread(pictures.upload, access.owner, content)
    return AsciiJson(_document(name, len(content), int(time.time())))


@router.get("/v1/files")
async def uploads(request: Request) -> AsciiJson:
    """The uploads of who asks."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    known = pictures.uploads(access.owner).items()
    documents = [_document(name, *about) for name, about in known]
    return AsciiJson({"object": "list", "data": documents, "has_more": False})


@router.delete("/v1/files/{name}")
async def forget(request: Request, name: str) -> AsciiJson:
    """Let go of an upload of who asks."""
    pictures: Pictures = request.app.state.pictures
    access: Access = request.state.access
    if not pictures.forget(access.owner, name):
        raise Refusal(404, "No such upload.")
    return AsciiJson({"id": name, "object": "file", "deleted": True})


async def _file(request: Request, limits: Limits) -> bytes:
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=4, max_part_size=1024)
    parser.spool_max_size = limits.body_bytes  # in memory: a picture is not put on the disk, not for a moment
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError):
        raise Refusal(400, "A form with one file is expected.") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refusal(400, "A form with one file, called file, is expected.")
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
