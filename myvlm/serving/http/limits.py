"""What the server takes at most, of everything that somebody else decides."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds of one server; each is checked before the work is done that it bounds.

    Attributes:
        requests: that are under way together, waiting ones included; one more is answered 429.
        learners: concepts that are learned or wait to be; one more is answered 429.
        batch: requests that are spoken of together.
        seconds: after which a request that has no reply is answered 504, and a slow body 408.
        body_bytes: of one request.
        held_bytes: of the bodies of all requests together; one more is answered 429.
        picture_bytes: of one picture, as a file.
        pixels: of one picture.
        open_pixels: of all pictures that are open together; one more waits.
        photos: of one concept to learn.
        turns: of one conversation.
        characters: of one text.
        tokens: of one reply.
        uploads_bytes: of the pictures that one owner has uploaded; the oldest are let go of.
        concepts: of one owner.
        libraries_bytes: of the libraries in memory; those not asked for longest are let go of.
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
