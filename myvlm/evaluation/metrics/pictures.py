"""CLIPScore, the similarity of a text and a picture, with any open_clip model."""

from __future__ import annotations

from collections.abc import Sequence

from myvlm.errors import InputError
from myvlm.heads.encoders import ImageEncoder, get_encoder
from myvlm.images import ImageSource, load_images

PREFIX = "A photo depicts "
WEIGHT = 2.5


def clip_scores(
    images: Sequence[ImageSource],
    texts: Sequence[str],
    *,
    encoder: str | ImageEncoder,
    device: str = "cpu",
    prefix: str = PREFIX,
) -> list[float]:
    """CLIPScore of each picture and its text: 2.5 · max(cos, 0), with the prefix of arXiv 2104.08718.

    Args:
        images: N pictures.
        texts: N texts, with identifiers replaced by categories: no encoder knows the identifier.
        encoder: an open_clip model by name, such as `ViT-B-32@openai` or `tinyworld/clip`.
        device: device that the encoder runs on.
        prefix: put before every text.

    Raises:
        InputError: the numbers of pictures and texts differ, or the encoder cannot encode text.

    >>> from myvlm.tinyworld import sample_picture
    >>> right, wrong = clip_scores(
    ...     [sample_picture(3)] * 2, ["a checked blue lamp in the bedroom", "a dotted red cat at the lake"],
    ...     encoder="tinyworld/clip", prefix="")
    >>> 0 <= right <= 2.5 and 0 <= wrong <= 2.5
    True
    """
    model = get_encoder(encoder, device=device)
    written = model.encode_text([prefix + text for text in texts]) if texts else None
    if written is None or len(images) != len(texts):
        raise InputError(
            "CLIPScore cannot be computed.",
            got=f"{len(images)} pictures, {len(texts)} texts, encoder {model.id!r}",
            expected="as many texts as pictures, and an encoder with a text tower",
            fix="choose an open_clip model such as ViT-B-32@openai",
        )
    seen = model.encode([photo.image for photo in load_images(list(images))])
    return [WEIGHT * max(float(cosine), 0.0) for cosine in (seen * written).sum(axis=1)]
