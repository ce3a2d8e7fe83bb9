"""Two hundred requests that a server must refuse with a 4xx, without opening anything for them.

`refused_all` sends them to a server in this process. An audit hook, below all libraries, records each file
that is opened and each connection that is made.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

MODEL = "tinyworld/llava"
JSON = {"content-type": "application/json"}
CHAT, CONCEPTS, FILES = "/chat/completions", "/concepts", "/files"


@dataclass(frozen=True)
class Bad:
    """A bad request and the reason why it is bad; `token=False` sends it without a valid token."""

    why: str
    method: str
    path: str
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))
    token: bool = True


def bad_requests(canary: Path, elsewhere: str, body_bytes: int) -> list[Bad]:
    """All bad requests.

    Args:
        canary: a picture on the server's disk that no client may see.
        elsewhere: an address that the server could connect to.
        body_bytes: the server's limit for a request body.
    """
    return [
        *_strangers(),
        *_addresses(canary, elsewhere),
        *_broken_pictures(),
        *_too_much(body_bytes),
        *_wrong_types(),
        *_no_json(),
        *_wrong_places(),
        *_bad_concepts(canary, elsewhere),
        *_bad_uploads(),
    ]


def refused_all(url: str, token: str, bad: list[Bad]) -> dict[str, int]:
    """Send the requests one after another; return each one's status by number and reason (0: no answer)."""
    statuses = {}
    with httpx.Client(base_url=url, timeout=300) as client:
        for number, one in enumerate(bad):
            headers = {**one.headers, **({"authorization": f"Bearer {token}"} if one.token else {})}
            try:
                answer = client.request(one.method, url + one.path, content=one.body, headers=headers)
                statuses[f"{number}: {one.why}"] = answer.status_code
            except httpx.TransportError:
                statuses[f"{number}: {one.why}"] = 0
    return statuses


@contextmanager
def watched() -> Iterator[list[str]]:
    """Record the files that this process opens and the addresses that it connects to, inside this context."""
    if not _NOTED:
        sys.addaudithook(_note)
        _NOTED.append([])
    seen: list[str] = []
    _NOTED[0] = seen
    try:
        yield seen
    finally:
        _NOTED[0] = []


_NOTED: list[list[str]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        _NOTED[0].append(str(arguments[0]))
    elif event == "socket.connect":
        _NOTED[0].append(f"connect {arguments[1]}")


def _png(picture: Image.Image | None = None) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.effect_noise((48, 48), 90).convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def _as_data(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode()


def _asked(url: Any, **changed: Any) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it ?"}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}], **changed}
    return json.dumps(body).encode()


def _chat(why: str, body: bytes) -> Bad:
    return Bad(why, "POST", CHAT, body)


def _strangers() -> list[Bad]:
    good = _asked(_as_data(_png()))
    tokens = [
        None, "Bearer", "Bearer wrong", "Basic YW5uYTphbm5h", "bearer null", "Bearer ../anna",
        "Token anna", "Bearer " + "a" * 5000, "Bearer anna\tanna", "Digest anna", "Bearer anna anna",
    ]  # fmt: skip
    made = []
    for token in tokens:
        headers = {**JSON, **({} if token is None else {"authorization": token})}
        made.append(Bad(f"token {str(token)[:20]!r}", "POST", CHAT, good, headers, token=False))
    for method, path in (("GET", CONCEPTS), ("GET", "/models"), ("DELETE", "/concepts/ulmo?erase=true"),
                         ("GET", FILES), ("GET", "/../openapi.json")):  # fmt: skip
        made.append(Bad("no token", method, path, b"", {}, token=False))
    return made


def _addresses(canary: Path, elsewhere: str) -> list[Bad]:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    urls: list[Any] = [
        "file:///etc/passwd", "/etc/passwd", "../../../../etc/passwd", str(canary), f"file://{canary}",
        f"FILE://localhost{canary}", str(canary.parent), f"{canary.parent}/*.png", "*", "~/.ssh/id_rsa",
        f"{elsewhere}/canary.png", elsewhere, "https://example.com/a.png", "//example.com/a.png",
        "http://169.254.169.254/latest/meta-data/", "http://[::1]/a.png", "ftp://example.com/a.png",
        "gopher://127.0.0.1:70/1", "http://127.0.0.1@example.com/", "jar:file:///a.zip!/b",
        "dict://127.0.0.1:11211",
        "s3://bucket/a.png", "\\\\server\\share\\a.png", "C:\\Windows\\win.ini", "/dev/zero",
        "/proc/self/environ",
        "file-../../etc/passwd", "file-", "file-%2e%2e", f"file-{canary}", "file-\u0000", "data:", "data:,",
        "data:image/png", "data:image/png;base64", "data:image/png,rawbytes", "data:image/png;base64,!!!!",
        "data:text/plain;base64,aGVsbG8=", f"data:{canary};base64,", "data:image/png;charset=x,AAAA",
        _as_data(svg, "image/svg+xml"), _as_data(b"file:///etc/passwd"), "javascript:alert(1)", "", " ", "\n",
        str(canary).encode().hex(), "blob:null/1", "about:blank", "data:image/png;base64,\ud800",
    ]  # fmt: skip
    return [_chat(f"address {str(url)[:40]!a}", _asked(url)) for url in urls]


def _broken_pictures() -> list[Bad]:
    whole = _png()
    jpeg, gif = io.BytesIO(), io.BytesIO()
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    noise.save(jpeg, "JPEG")
    noise.save(gif, "GIF")
    broken = [whole[: len(whole) * part // 10] for part in range(9)]
    broken += [jpeg.getvalue()[: len(jpeg.getvalue()) * part // 10] for part in range(1, 9)]
    broken += [gif.getvalue()[:20], b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" * 4, b"RIFF\0\0\0\0WEBP"]
    broken += [_bomb(60_000, 60_000), _bomb(2**31 - 1, 1), _bomb(20_000, 20_000), _bomb(0, 10)]
    broken += [b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", b"%PDF-1.4", b"PK\3\4" * 20, b"\0" * 1000]
    for kind in ("BMP", "TIFF", "ICO", "PPM", "TGA"):
        other = io.BytesIO()
        noise.save(other, kind)
        broken.append(other.getvalue())
    return [_chat(f"picture {number}", _asked(_as_data(one))) for number, one in enumerate(broken)]


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header declares this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _too_much(body_bytes: int) -> list[Bad]:
    picture = _as_data(_png())

    def endless() -> Iterator[bytes]:
        for _ in range(body_bytes // 2**20 + 2):
            yield b" " * 2**20

    turns = [{"role": role, "content": "a"} for role in ("assistant", "user")] * 200
    first = json.loads(_asked(picture))["messages"]
    return [
        Bad("a body without end", "POST", CHAT, endless()),
        _chat("a picture of too many bytes", _asked("data:image/png;base64," + "A" * (23 * 2**20))),
        _chat("a long question", _asked(picture, messages=[*first, *turns[:1], _user("a " * 9000)])),
        _chat("many turns", _asked(picture, messages=[*first, *turns])),
        _chat("a long first question", _asked(picture, messages=_said(picture, "a " * 9000))),
        _chat("more than the model reads", _asked(picture, messages=_said(picture, "mug " * 1900))),
        _chat("many tokens", _asked(picture, max_tokens=10**9)),
        _chat("many pictures", _asked(picture, messages=[_user(first[0]["content"] * 50)])),
        _chat("two pictures", _asked(picture, messages=[_user(first[0]["content"] * 2)])),
        Bad("many photos", "POST", CONCEPTS, json.dumps(
            {"identifier": "fnord", "category": "mug", "photos": [picture] * 100}).encode()),
    ]  # fmt: skip


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _said(picture: str, text: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return [_user(parts)]


def _wrong_types() -> list[Bad]:
    picture = _as_data(_png())
    wrong: dict[str, list[Any]] = {
        "model": [None, 3, "gpt-4o", ["tinyworld/llava"], "../tinyworld/llava", ""],
        "messages": [None, {}, "hi", [], [3], [{}], [{"role": "user"}], [{"role": "root", "content": "a"}],
                     [{"role": "assistant", "content": "a"}], [_user([{"type": "audio"}])],
                     [_user([{"type": "image_url", "image_url": "a"}])],
                     [_user([{"type": "image_url", "image_url": {"url": 3}}])],
                     [_user("a"), _user("b")],
                     [*_said(picture, "a"), {"role": "system", "content": "late"}, _user("b")],
                     _said(picture, "<image>"), _said(picture, "half \ud800 a letter"),
                     [_user("a"), {"role": "assistant", "content": "b"}, *_said(picture, "c")]],
        "temperature": [-1, 3, "hot", [1], 1e999],
        "top_p": [0, 2, "all"],
        "max_tokens": [0, -5, 1.5, "many", 10**400],
        "n": [0, 2, 10**6, "one"],
        "stream": ["perhaps", 7, {}],
        "concepts": ["sks", [3], {"a": 1}, ["no-such-concept"], ["../anna"], [None]],
        "tools": [[{"type": "function"}], {}],
        "response_format": [{"type": "json_object"}],
        "stop": ["a"], "seed": [[1]], "logprobs": [True], "logit_bias": [{"50256": 100}], "functions": [[]],
        "__class__": ["a"], "options": [{"num_return_sequences": 9}], "generation_config": [{}],
    }  # fmt: skip
    return [
        _chat(f"{name} {str(value)[:30]!a}", _asked(picture, **{name: value}))
        for name, values in wrong.items()
        for value in values
    ]


def _no_json() -> list[Bad]:
    good = _asked(_as_data(_png()))
    bodies = [
        b"", b"{", b"null", b"[]", b'"a"', b"\xff\xfe\x00", b"\x00" * 100, good[:-1], good[:200], good + b"}",
        b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b'{"model": "\xff"}', b"model=tinyworld/llava",
    ]  # fmt: skip
    made = [_chat(f"body {body[:12]!r}", body) for body in bodies]
    kinds = ["text/plain", "application/xml", "application/x-www-form-urlencoded", "", "image/png",
             "application/x-python-pickle"]  # fmt: skip
    return made + [Bad(f"type {kind!r}", "POST", CHAT, good, {"content-type": kind}) for kind in kinds]


def _wrong_places() -> list[Bad]:
    places = [
        ("GET", "/../../etc/passwd"), ("GET", "/%2e%2e/%2e%2e/etc/passwd"), ("GET", "/concepts/../../x"),
        ("GET", CHAT), ("PUT", CONCEPTS), ("GET", "/nothing"), ("GET", "/models/../../etc/passwd"),
        ("GET", "/models/gpt-4o"), ("DELETE", CONCEPTS), ("DELETE", "/concepts/no-such-concept"),
        ("DELETE", "/concepts/..?erase=true"), ("DELETE", "/concepts/%2e%2e%2fanna?erase=true"),
        ("DELETE", "/concepts/%2fetc?erase=true"), ("DELETE", "/concepts/.?erase=true"),
        ("DELETE", "/concepts/%00?erase=true"), ("DELETE", "/concepts/*?erase=true"),
        ("DELETE", "/concepts/no-such-concept?erase=perhaps"), ("DELETE", "/files/..%2f..%2fx"),
        ("DELETE", "/files/file-nothing"), ("PATCH", FILES),
    ]  # fmt: skip
    return [Bad(f"{method} {path}", method, path, b"", dict(JSON)) for method, path in places]


def _bad_concepts(canary: Path, elsewhere: str) -> list[Bad]:
    picture = _as_data(_png())
    good = {"identifier": "fnord", "category": "mug", "photos": [picture]}
    wrong: list[dict[str, Any]] = [
        {"photos": [str(canary)]}, {"photos": [f"{elsewhere}/a.png"]}, {"photos": str(canary.parent)},
        {"photos": []}, {"photos": None}, {"photos": [picture, "file:///etc/passwd"]},
        {"identifier": ""}, {"identifier": "../../x"}, {"identifier": "a" * 65}, {"identifier": "<image>"},
        {"identifier": "</s>"}, {"identifier": "a\nb"}, {"identifier": None}, {"identifier": "\ud800"},
        {"category": ""}, {"category": "../x"}, {"category": "m" * 300}, {"category": "<image>"},
        {"kind": "pickle"}, {"kind": "../object"}, {"captions": ["no name in it"]}, {"captions": 3},
        {"captions": ["fnord"] * 5}, {"questions": [["a"]]}, {"questions": "a"},
        {"settings": {"steps": 1}}, {"head_options": {"encoder": str(canary)}}, {"out": str(canary.parent)},
        {"captions": ["fnord " * 3000]},
        {"captions": ["fnord <image>"]},
    ]  # fmt: skip
    made = [
        Bad(f"enrol {str(one)[:40]!a}", "POST", CONCEPTS, json.dumps({**good, **one}).encode())
        for one in wrong
    ]
    names = ["", "../x", "a/b", "a" * 65, " ", None, 3]
    made += [
        Bad(f"rename to {name!r}", "PATCH", "/concepts/ulmo", json.dumps({"identifier": name}).encode())
        for name in names
    ]
    return made


def _bad_uploads() -> list[Bad]:
    form = {"content-type": "multipart/form-data; boundary=b"}

    def part(name: str, content: bytes, *, file: bool = True) -> bytes:
        named = f'; filename="{name}.png"' if file else ""
        return (
            f'--b\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )

    end = b"--b--\r\n"
    return [
        Bad("an upload of nothing", "POST", FILES, end, form),
        Bad("an upload without a boundary", "POST", FILES, b"a", {"content-type": "multipart/form-data"}),
        Bad("an upload that is no picture", "POST", FILES, part("file", b"hello") + end, form),
        Bad("an upload of a bomb", "POST", FILES, part("file", _bomb(60_000, 60_000)) + end, form),
        Bad("two files", "POST", FILES, part("file", _png()) + part("more", _png()) + end, form),
        Bad("another name", "POST", FILES, part("picture", _png()) + end, form),
        Bad("a text for a file", "POST", FILES, part("file", b"/etc/passwd", file=False) + end, form),
        Bad("an upload as JSON", "POST", FILES, b'{"file": "/etc/passwd"}'),
    ]
