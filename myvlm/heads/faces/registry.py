"""Face encoders by name."""

from __future__ import annotations

from collections.abc import Callable

from myvlm.heads.faces.encoders import FaceEncoder
from myvlm.plugins.registry import SharedRegistry

DEFAULT_FACE_ENCODER = "facenet/vggface2"


def _dlib(device: str) -> FaceEncoder:
    from myvlm.heads.faces.dlib import DlibEncoder

    return DlibEncoder()


def _facenet(device: str) -> FaceEncoder:
    from myvlm.heads.faces.facenet import FacenetEncoder

    return FacenetEncoder(device=device)


face_encoders = SharedRegistry[FaceEncoder](
    "face encoder", add="register it with myvlm.heads.faces.registry.register_face_encoder"
)
face_encoders.register(DEFAULT_FACE_ENCODER, _facenet)
face_encoders.register("dlib/resnet-v1", _dlib)


def register_face_encoder(id: str, factory: Callable[[str], FaceEncoder], *, replace: bool = False) -> None:
    """Make a face encoder known by its id.

    Args:
        id: what `get_face_encoder` finds it by; the encoder's own `id`.
        factory: gets the device and is called at first use.
        replace: whether it takes the place of another of that id.

    Raises:
        NameTakenError: the id is another's, and `replace` is not set.
    """
    face_encoders.register(id, factory, replace=replace)


def get_face_encoder(name: str | FaceEncoder = DEFAULT_FACE_ENCODER, *, device: str = "cpu") -> FaceEncoder:
    """The one shared face encoder of that name and device; an encoder passes through as it is.

    Raises:
        UnknownNameError: no such encoder is known; the message lists those that are.

    >>> get_face_encoder().threshold
    1.04
    """
    return face_encoders.shared(name, device) if isinstance(name, str) else name
