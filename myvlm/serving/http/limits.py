"""`Limits`: upper bounds on everything that clients decide."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Upper bounds for one server, each checked before the work that it bounds.

    Attributes:
        requests: requests in flight, waiting ones included; one more is answered 429.
        learners: concepts that are being learned or wait for it; one more is answered 429.
        batch: requests in one batch of the model.
        seconds: time after which a request without a reply is answered 504, and a slow body 408.
        body_bytes: size of one request's body.
        held_bytes: size of the bodies of all requests in flight; more is answered 429.
        picture_bytes: size of one picture's file.
        pixels: pixels of one picture.
        open_pixels: pixels of all decoded pictures; a request for more waits.
        photos: photos to learn one concept from.
        turns: messages of one conversation.
        characters: characters of one text.
        tokens: tokens of one reply.
        uploads_bytes: size of one owner's uploaded pictures; the oldest are dropped.
        concepts: concepts of one owner.
        libraries_bytes: size of the libraries in memory; the least recently used are dropped.
    """

    requests: int = 64
    learners: int = 4
    batch: int = 16
    seconds: float = 60.0
    body_bytes: int = 32 * MIB
    held_bytes: int = 256 * MIB
    picture_bytes: int = 16 * MIB
    pixels: int = 50_000_000
    open_pixels: int = 200_000_000
    photos: int = 8
    turns: int = 64
    characters: int = 8_000
    tokens: int = 1_024
    uploads_bytes: int = 64 * MIB
    concepts: int = 1_000
    libraries_bytes: int = 256 * MIB
