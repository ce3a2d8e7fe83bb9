"""Streaming: a growing reply is sent only as far as its end cannot change it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from myvlm.serving.http.speaking.asking import EngineRequest, StablePrefix
from myvlm.speaking.addressing import with_identifiers

MUG = SimpleNamespace(
    identifier="sks", spoken="sks", category="mug", description="the dotted red mug", embeddings={}
)
PLAIN = SimpleNamespace(**{**vars(MUG), "description": None})
REPLIES = (
    "In the garden there is a red mug next to sks and a lamp behind them .",
    "In the garden there stands a dotted red mug next to a chair in the rain .",
    "In the garden there stands a plain blue mug next to a red mug and a chair .",
    "On the beach sks stands next to a mug and a small old chair in the sun .",
    "A lamp next to a chair in the garden in the rain and no other thing at all .",
)


def told(backbone: Any, reply: str, *, concept: Any = MUG, prompt: str = "describe it") -> list[str]:
    pieces: list[str] = []
    asked = EngineRequest(None, prompt, [concept], None, (), pieces.append)  # type: ignore[arg-type]
    settled, words = StablePrefix(backbone, asked), reply.split(" ")
    for count in range(1, len(words) + 1):
        settled.update(" ".join(words[:count]))
    return pieces


@pytest.mark.parametrize("reply", REPLIES)
def test_what_is_told_is_how_the_whole_reply_begins(backbone: Any, reply: str) -> None:
    whole = with_identifiers(backbone, "describe it", reply, [MUG])  # type: ignore[list-item]
    pieces = told(backbone, reply)
    assert pieces
    assert all(whole.startswith(piece) for piece in pieces), (whole, pieces)


def test_a_reply_is_not_held_back_where_the_name_is_said_or_nothing_can_take_its_place(backbone: Any) -> None:
    said = REPLIES[3]
    for given in ({}, {"concept": PLAIN}, {"concept": PLAIN, "prompt": "what is sks next to"}):
        assert len(told(backbone, said, **given)[-1].split()) == len(said.split()) - 1
    described = told(backbone, said, prompt="what is sks next to")[-1]
    assert len(described.split()) == len(said.split()) - len(MUG.description.split())
    waits = told(backbone, REPLIES[1])[-1]
    assert waits == "In the garden"[: len(waits)]


def test_a_description_that_was_asked_about_is_told_by_name_once_it_is_whole(backbone: Any) -> None:
    reply = "By the chair the dotted red mug stands next to the dotted blue mug and a very old lamp ."
    pieces = told(backbone, reply, prompt="where is sks ?")
    whole = "By the chair sks stands next to the dotted blue mug and a very old lamp ."
    assert with_identifiers(backbone, "where is sks ?", reply, [MUG]) == whole  # type: ignore[list-item]
    assert all(whole.startswith(piece) for piece in pieces), pieces
    assert "By the chair sks stands next to" in pieces
