"""A local stand-in of the Hugging Face hub, for the hub's own client over HTTP.

It implements the requests by which that client creates a repository, commits and reads: repositories with
commits, large files by the Git LFS protocol, tokens, and private repositories that nobody else can see.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN, READER = "hf_owner", "hf_reader"
"""Tokens of the user `me`, who may write, and of another user."""


@dataclass
class Repository:
    """Commits from first to last (file → content), and the names of each."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((one for one in self.commits if one[0] == revision), None)

    def commit(self, files: dict[str, bytes]) -> str:
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits.append((name, files))
        return name


@dataclass
class Hub:
    """The state of the hub.

    Attributes:
        url: its address.
        repositories: by `user/name`.
        large: content uploaded by LFS, by digest.
        asked: method and path of each request.
        refuse: whether the hub fails, given method and path.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refuse: Callable[[str], bool] = lambda request: False

    def files(self, repository: str) -> dict[str, bytes]:
        return self.repositories[repository].commits[-1][1]


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Run a hub inside this context."""
    hub = Hub()

    class Handler(_Handler):
        known = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    known: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def _answer(self) -> None:
        path = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = f"{self.command} {unquote(path.path)}"
        self.known.asked.append(request)
        if self.known.refuse(request):
            self._send(500, {"error": "the hub broke down"})
            return
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, request):
                method(self, *found.groups(), body=body, query=parse_qs(path.query))
                return
        self._send(404, {"error": f"the stand-in knows no {request}"})

    def _send(self, status: int, said: Any, **headers: str) -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _token(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ")

    def _seen(self, repository: str, *, writing: bool = False) -> Repository | None:
        """The repository; None if an error was sent, because it does not exist or may not be accessed."""
        found = self.known.repositories.get(repository)
        token = self._token()
        if found is None or (found.private and token != TOKEN):
            status, code = (404, "RepoNotFound") if token else (401, "RepoNotFound")
            self._send(status, {"error": "Repository not found"}, X_Error_Code=code)
            return None
        if writing and token != TOKEN:
            self._send(403, {"error": "You have read access only"})
            return None
        return found

    def _create(self, *, body: bytes, query: Any) -> None:
        asked = json.loads(body)
        if self._token() != TOKEN:
            self._send(401, {"error": "Invalid username or password."})
            return
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not name.startswith("me/"):
            self._send(403, {"error": f"You don't have the rights to create a model under {name}"})
        elif name in self.known.repositories:
            self._send(
                409, {"error": "You already created this model repo", "url": f"{self.known.url}/{name}"}
            )
        else:
            self.known.repositories[name] = Repository(
                private=bool(asked.get("private")) or asked.get("visibility") == "private"
            )
            self.known.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            self._send(200, {"url": f"{self.known.url}/{name}", "name": name})

    def _info(self, name: str, revision: str | None, *, body: bytes, query: Any) -> None:
        if (found := self._seen(name)) is None:
            return
        commit = found.at(revision or "main")
        if commit is None:
            self._send(404, {"error": f"Invalid rev id: {revision}"}, X_Error_Code="RevisionNotFound")
            return
        files = [{"rfilename": one} for one in commit[1]]
        self._send(
            200, {"id": name, "sha": commit[0], "private": found.private, "siblings": files, "tags": []}
        )

    def _tree(self, name: str, revision: str, folder: str | None, *, body: bytes, query: Any) -> None:
        if (found := self._seen(name)) is None or (commit := found.at(revision)) is None:
            return
        inside = f"{folder}/" if folder else ""
        names = [one for one in commit[1] if one.startswith(inside)]
        if not names and folder:
            self._send(404, {"error": f"{folder} does not exist"}, X_Error_Code="EntryNotFound")
            return
        above = {"/".join(one.split("/")[:n]) for one in names for n in range(1, one.count("/") + 1)}
        folders = sorted(one for one in above if one.startswith(inside))
        entries = [_entry(one, None) for one in folders] + [_entry(one, commit[1][one]) for one in names]
        if query.get("recursive", ["false"])[0].lower() != "true":
            entries = [one for one in entries if "/" not in one["path"].removeprefix(inside)]
        self._send(200, entries)

    def _paths(self, name: str, revision: str, *, body: bytes, query: Any) -> None:
        if (found := self._seen(name)) is None or (commit := found.at(revision)) is None:
            return
        paths = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
        entries = [_entry(one, commit[1][one]) for one in paths if one in commit[1]]
        folders = [one for one in paths if any(file.startswith(f"{one}/") for file in commit[1])]
        self._send(200, entries + [_entry(one, None) for one in folders])

    def _preupload(self, name: str, revision: str, *, body: bytes, query: Any) -> None:
        if self._seen(name, writing=True) is None:
            return
        files = [
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for one in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def _batch(self, name: str, *, body: bytes, query: Any) -> None:
        if self._seen(name, writing=True) is None:
            return
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.known.url}/lfs/{one['oid']}"}}}
            for one in json.loads(body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def _store(self, digest: str, *, body: bytes, query: Any) -> None:
        assert hashlib.sha256(body).hexdigest() == digest
        self.known.large[digest] = body
        self._send(200, {})

    def _commit(self, name: str, revision: str, *, body: bytes, query: Any) -> None:
        if (found := self._seen(name, writing=True)) is None:
            return
        lines = [json.loads(one) for one in body.splitlines()]
        if lines[0]["value"].get("parentCommit") not in (None, found.commits[-1][0]):
            self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(found.commits[-1][1])
        for line in lines[1:]:
            said = line["value"]
            if line["key"] == "deletedFile":
                del files[said["path"]]
            elif line["key"] == "lfsFile":
                files[said["path"]] = self.known.large[said["oid"]]
            else:
                files[said["path"]] = base64.b64decode(said["content"])
        commit = found.commit(files)
        url = f"{self.known.url}/{name}/commit/{commit}"
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def _resolve(self, name: str, revision: str, path: str, *, body: bytes, query: Any) -> None:
        if (found := self._seen(name)) is None:
            return
        data = (found.at(revision) or ("", {}))[1].get(path)
        if data is None:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        said = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": found.commits[-1][0]}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range") or ""):
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            where = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], Content_Range=where, **said)
        else:
            self._send(200, data, **said)

    def _fine(self, *, body: bytes, query: Any) -> None:
        self._send(200, {"errors": [], "warnings": []})


def _entry(path: str, data: bytes | None) -> dict[str, Any]:
    if data is None:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    return {"type": "file", "path": path, "oid": hashlib.sha1(data).hexdigest(), "size": len(data)}


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"POST /api/repos/create", _Handler._create),
    (rf"GET /api/models/{_NAME}(?:/revision/(\w+))?", _Handler._info),
    (rf"GET /api/models/{_NAME}/tree/(\w+)(?:/(.+?))?/?", _Handler._tree),
    (rf"POST /api/models/{_NAME}/paths-info/(\w+)", _Handler._paths),
    (rf"POST /api/models/{_NAME}/preupload/(\w+)", _Handler._preupload),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler._batch),
    (r"PUT /lfs/(\w+)", _Handler._store),
    (rf"POST /api/models/{_NAME}/commit/(\w+)", _Handler._commit),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/(\w+)/(.+)", _Handler._resolve),
    (r"POST /api/validate-yaml", _Handler._fine),
]
