"""Pictures of the report: failures, then successes, with the head's box and the attention map of the name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from PIL import Image

from myvlm.api import MyVLM
from myvlm.errors import InputError
from myvlm.evaluation.data.dataset import Subject
from myvlm.evaluation.data.outcome import MarkedPicture, PictureReply
from myvlm.evaluation.data.plan import DEFAULT, Job
from myvlm.evaluation.methods.personalized import PersonalSpeaker
from myvlm.evaluation.protocol.bench import Bench
from myvlm.heads.detections import Detections
from myvlm.images import load_images
from myvlm.results import mark
from myvlm.text import contains_word

LONGEST_SIDE = 384


def model_with_concept(
    speaker: PersonalSpeaker, identifier: str, *, needs_embedding: bool = False
) -> MyVLM | None:
    """The `MyVLM` of a speaker if it holds the concept, else None.

    Args:
        speaker: the speaker of any method; some have a concept with a head and no embedding.
        identifier: the concept's identifier.
        needs_embedding: whether the concept must have an embedding, which attention maps and boxes need.
    """
    vlm = getattr(speaker, "vlm", None)
    if not isinstance(vlm, MyVLM) or identifier not in vlm.concepts:
        return None
    if needs_embedding and vlm.backbone.name not in vlm.concepts[identifier].embeddings:
        return None
    return vlm


def show(
    bench: Bench,
    job: Job,
    speaker: PersonalSpeaker,
    subject: Subject,
    replies: Sequence[PictureReply],
    present: int,
) -> tuple[MarkedPicture, ...]:
    """Save pictures of some failures and successes of a job; only for the first split of the first method.

    Args:
        replies: replies about all pictures; the first `present` pictures show the subject.
    """
    plan, vlm = bench.plan, model_with_concept(speaker, subject.identifier, needs_embedding=True)
    main = (0, plan.methods[0], max(plan.photos), DEFAULT)
    if job.key[1:] != main or vlm is None:
        return ()
    wanted = [number < present for number in range(len(replies))]
    right = [
        contains_word(one.text, subject.identifier) == want for one, want in zip(replies, wanted, strict=True)
    ]
    wrong = [number for number, good in enumerate(right) if not good][: plan.shown]
    good = [number for number, good in enumerate(right) if good and wanted[number]][: plan.shown]
    plain = bench.plain([replies[number].file for number in (*wrong, *good)])
    return tuple(
        _save_marked(bench, vlm, subject.identifier, replies[number], wanted[number], before)
        for number, before in zip((*wrong, *good), plain, strict=True)
    )


def _save_marked(
    bench: Bench, vlm: MyVLM, identifier: str, reply: PictureReply, wanted: bool, plain: str
) -> MarkedPicture:
    [photo] = load_images(reply.file)
    [found] = vlm.concepts.recognise([photo])
    name = hashlib.sha256(f"{identifier} {reply.file}".encode()).hexdigest()[:16]
    overlay = _overlay(vlm, identifier, reply, found)
    bench.pictures.mkdir(parents=True, exist_ok=True)
    _save(mark(photo.image, found.present), bench.pictures / f"{name}.png")
    if overlay:
        _save(overlay, bench.pictures / f"{name}-looks.png")
    return MarkedPicture(
        picture=f"{name}.png",
        overlay=f"{name}-looks.png" if overlay else None,
        wanted=wanted,
        text=reply.text,
        plain=plain,
    )


def _overlay(vlm: MyVLM, identifier: str, reply: PictureReply, found: Detections) -> Image.Image | None:
    """Overlay of the name's attention map, or None if the reply does not contain the name."""
    if not found.present or not contains_word(reply.text, identifier):
        return None
    try:
        return vlm.attention(reply.file, identifier).overlay()
    except InputError:  # generated outside its batch, the reply can lack the name
        return None


def _save(image: Image.Image, file: object) -> None:
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(str(file))
