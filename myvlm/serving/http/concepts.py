"""The endpoints `/v1/concepts`: list, learn, correct, rename, remove and erase an owner's concepts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from myvlm.concepts.concept import Concept
from myvlm.concepts.correcting import Correction
from myvlm.heads.features import forget_pictures
from myvlm.images import LoadedImage
from myvlm.learning.dataset import Lesson
from myvlm.serving.http.errors import AsciiJson, Refusal, Streamed, as_refusal, error_body
from myvlm.serving.http.learning import Enrolment, Learner
from myvlm.serving.http.limits import Limits
from myvlm.serving.http.owners import Access, Owners, Tokens
from myvlm.text import check_category, check_identifier

router = APIRouter()


class _Enrol(BaseModel):
    model_config = ConfigDict(extra="forbid")

    identifier: str
    category: str = Field(max_length=200)
    photos: list[str] = Field(min_length=1)
    captions: list[str | list[str]] | None = None
    questions: list[tuple[str, str]] | None = None
    kind: str = "object"
    face_consent: bool = False
    stream: bool = False


class _Rename(BaseModel):
    model_config = ConfigDict(extra="forbid")

    identifier: str


class _Correct(BaseModel):
    model_config = ConfigDict(extra="forbid")

    photo: str
    present: bool | None
    box: tuple[float, float, float, float] | None = None


@router.get("/v1/concepts")
async def show(request: Request) -> AsciiJson:
    """List the client's concepts."""
    owners: Owners = request.app.state.owners
    access: Access = request.state.access
    library = await asyncio.to_thread(owners.library, access.owner)
    return AsciiJson({"object": "list", "data": [_document(one) for one in library.values()]})


@router.post("/v1/concepts")
async def enrol(request: Request, wanted: _Enrol) -> Response:
    """Learn a concept from photos; with `stream`, send its progress as server-sent events.

    If the owner's library is at an address, `face_consent` says that the person agrees to be stored there.
    """
    state = request.app.state
    owner = _owner_with_write_access(request)
    limits: Limits = state.limits
    learner: Learner = state.learner
    if len(wanted.photos) > limits.photos:
        raise Refusal(400, f"A concept may have at most {limits.photos} photos.")
    for text in _texts(wanted):
        if len(text) > limits.characters:
            raise Refusal(400, f"A text may have at most {limits.characters} characters.")
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(limits.seconds):
            photos = await stack.enter_async_context(state.pictures.read(owner, wanted.photos))
        lesson = Lesson(
            check_identifier(wanted.identifier),
            photos,
            category=check_category(wanted.category),
            captions=wanted.captions,
            questions=wanted.questions,
            kind=wanted.kind,
        )
        enrolment = Enrolment(owner, lesson, face_consent=wanted.face_consent)
        await asyncio.to_thread(learner.check, enrolment)
        stack.enter_context(learner.queue_place())
        made = learner.learn(enrolment)
        if wanted.stream:
            return Streamed(_events(made), kept=stack.pop_all())
        async with aclosing(made):
            [concept] = [one async for one in made if isinstance(one, Concept)]
        return AsciiJson(_document(concept), 201)


@router.post("/v1/concepts/{identifier}/correct")
async def correct(request: Request, identifier: str, said: _Correct) -> AsciiJson:
    """Correct a concept's head: whether a picture, or its part in the box, shows the concept.

    `present=None` takes a correction back. The response says what has changed; see `MyVLM.correct`.
    """
    state = request.app.state
    owners: Owners = state.owners
    owner = _owner_with_write_access(request)

    def change(photo: LoadedImage) -> Correction:
        with owners.lock(owner):
            library = owners.library(owner)
            try:
                correction = library.correct(photo, identifier, present=said.present, box=said.box)
                owners.storage(owner).replace(library[identifier])
            finally:
                owners.drop_from_cache(owner)  # storage is authoritative, also after a failed write
            return correction

    async with asyncio.timeout(state.limits.seconds), state.pictures.read(owner, [said.photo]) as [photo]:
        correction = await asyncio.to_thread(change, photo)
    return AsciiJson({"object": "concept.correction", **correction.document()})


@router.patch("/v1/concepts/{identifier}")
async def rename(request: Request, identifier: str, wanted: _Rename) -> AsciiJson:
    """Change a concept's identifier."""
    owners: Owners = request.app.state.owners
    owner = _owner_with_write_access(request)

    def change() -> Concept:
        with owners.lock(owner):
            owners.storage(owner).rename(identifier, wanted.identifier)
            owners.drop_from_cache(owner)
        return owners.library(owner)[wanted.identifier]

    return AsciiJson(_document(await asyncio.to_thread(change)))


@router.delete("/v1/concepts/{identifier}")
async def remove(request: Request, identifier: str, erase: bool = False) -> AsciiJson:
    """Remove a concept but keep it aside in storage; or `erase` it, with copies that were kept aside before.

    Erasing also drops all cached picture features and the owner's uploads.
    """
    state = request.app.state
    owners: Owners = state.owners
    owner = _owner_with_write_access(request)

    def change() -> None:
        with owners.lock(owner):
            storage = owners.storage(owner)
            try:
                storage.erase(identifier) if erase else storage.remove(identifier)
            finally:
                owners.drop_from_cache(owner)
            if erase:
                forget_pictures()

    await asyncio.to_thread(change)
    if erase:
        state.pictures.forget(owner)
    return AsciiJson({"identifier": identifier, "object": "concept", "deleted": True, "erased": erase})


def _owner_with_write_access(request: Request) -> str:
    access: Access = request.state.access
    if not access.may_change:
        tokens: Tokens = request.app.state.tokens
        who, fix = (
            ("Requests", "; start the server with --may-change") if tokens.anonymous else ("This token", "")
        )
        raise Refusal(
            403, f"{who} may use concepts, but not learn, correct, rename, remove or erase them{fix}."
        )
    return access.owner


def _texts(wanted: _Enrol) -> list[str]:
    captions = [[one] if isinstance(one, str) else one for one in wanted.captions or ()]
    several = [*captions, *(wanted.questions or ())]
    return [text for own in several for text in own]


async def _events(made: AsyncGenerator[Any]) -> AsyncIterator[str]:
    try:
        async with aclosing(made):
            async for one in made:
                done = isinstance(one, Concept)
                yield _event("done" if done else "progress", _document(one) if done else one)
    except Exception as error:
        refusal = as_refusal(error)
        yield _event("error", error_body(refusal.status_code, refusal.detail))


def _event(kind: str, document: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(document)}\n\n"


def _document(concept: Concept) -> dict[str, Any]:
    return {
        "identifier": concept.identifier,
        "object": "concept",
        "learned_as": concept.spoken,
        "category": concept.category,
        "kind": concept.kind,
        "models": list(concept.embeddings),
        "captions": concept.recipe.get("captions"),
        "captions_by": concept.recipe.get("captions_by"),
    }
