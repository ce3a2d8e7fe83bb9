"""Writing concepts to the Hugging Face hub in one commit, so that an upload is complete or absent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from myvlm.concepts.remote.faults import translated_errors
from myvlm.errors import InputError, NotWritableError, RemoteError, import_extra

_REPOSITORY = re.compile(
    r"hf://(?:(models|datasets|spaces)/)?([\w.-]+/[\w.-]+)(?:@(refs/pr/\d+|[^/]+))?(?:/(.+))?", re.ASCII
)


@dataclass(frozen=True)
class Repository:
    """A folder in a repository on the hub.

    Attributes:
        kind: `model`, `dataset` or `space`.
        id: `user/name`.
        revision: the branch; None for the main one.
        folder: the path inside the repository; "" for its root.
    """

    kind: str
    id: str
    revision: str | None
    folder: str


def parse_address(url: str) -> Repository | None:
    """Parse an `hf://` address; return None for other addresses, and for `hf://buckets/`.

    Raises:
        InputError: it is a hub address, but does not name a repository.

    >>> parse_address("hf://me/things@main/mug")
    Repository(kind='model', id='me/things', revision='main', folder='mug')
    """
    if not url.startswith("hf://") or url.startswith("hf://buckets/"):
        return None
    found = _REPOSITORY.fullmatch(url)
    if found is None:
        raise InputError(
            f"{url} is not an address on the hub.",
            got=url,
            expected="hf://user/repository or hf://user/repository/folder",
            fix="include the user or organization",
        )
    kind = (found[1] or "models").removesuffix("s")
    return Repository(kind, found[2], found[3], found[4] or "")


def ensure_repository(place: Repository, url: str, *, private: bool) -> None:
    """Create the repository if it does not exist.

    Args:
        place: the repository.
        url: its address, as it was given.
        private: create a private one, and refuse an existing public one.

    Raises:
        NotWritableError: the repository is public although `private` is set, or the user has no permission.
        RemoteError: the hub cannot be reached.
    """
    api = _api(url)
    with translated_errors(url, writing=True):
        if not api.repo_exists(place.id, repo_type=place.kind):
            api.create_repo(place.id, repo_type=place.kind, private=private, exist_ok=True)
        public = api.repo_info(place.id, repo_type=place.kind).private is False
    if private and public:
        raise NotWritableError(
            f"{url} is public, so nothing was uploaded.",
            got=f"a public repository, {place.id}",
            expected="a private one, or permission to publish",
            fix=f'concept.push_to_hub("{url.removeprefix("hf://")}", private=False), or --public',
        )


def commit(
    place: Repository, url: str, put: Mapping[str, bytes], gone: Iterable[str], *, message: str
) -> None:
    """Add and delete files in one commit.

    Args:
        place: the folder in a repository.
        url: its address, as it was given.
        put: files to add, name inside the folder → bytes.
        gone: names of files to delete.
        message: the commit message.

    Raises:
        NotWritableError, RemoteError: see `translated_errors`; nothing has changed, unless the check
            of the new commit is what failed.
        RemoteError: the new commit lacks some of the added files, for example because of a `.gitignore`.
    """
    hub = import_extra("huggingface_hub", what=url, install="myvlm[share]")
    api = _api(url)
    folder = f"{place.folder}/" if place.folder else ""
    with translated_errors(url, writing=True), _without_progress_bars(hub.utils):
        head = api.repo_info(place.id, repo_type=place.kind, revision=place.revision).sha
        done = api.create_commit(
            place.id,
            [
                *(hub.CommitOperationAdd(f"{folder}{name}", data) for name, data in put.items()),
                *(hub.CommitOperationDelete(f"{folder}{name}") for name in gone),
            ],
            commit_message=message,
            repo_type=place.kind,
            revision=place.revision,
            parent_commit=head,  # else a concurrent writer's concept could be lost
        )
        there = set(api.list_repo_files(place.id, repo_type=place.kind, revision=done.oid))
    if lost := [name for name in put if f"{folder}{name}" not in there]:
        raise RemoteError(
            f"{url} is incomplete.",
            got=f"no {', '.join(lost)} in commit {done.oid[:12]}",
            expected="all uploaded files",
            fix="check whether the repository's .gitignore excludes them, and save again",
        )


@contextmanager
def _without_progress_bars(utils: Any) -> Iterator[None]:
    """Disable the hub's progress bars in the block: uploads are only kilobytes."""
    shown = not utils.are_progress_bars_disabled()
    if shown:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            utils.enable_progress_bars()


def _api(url: str) -> Any:
    return import_extra("huggingface_hub", what=url, install="myvlm[share]").HfApi()
