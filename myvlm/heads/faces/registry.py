"""Registry of face encoders."""

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
    """Register a face encoder under its id.

    Args:
        id: the name that `get_face_encoder` takes; the encoder's own `id`.
        factory: takes the device and returns the encoder; called at first use.
        replace: whether to replace another encoder of that id.

    Raises:
        NameTakenError: the id is taken, and `replace` is not set.
    """
    face_encoders.register(id, factory, replace=replace)


def get_face_encoder(name: str | FaceEncoder = DEFAULT_FACE_ENCODER, *, device: str = "cpu") -> FaceEncoder:
    """Return the shared face encoder of that name and device; an encoder is returned as it is.

    Raises:
        UnknownNameError: no encoder has this name; the message lists the known ones.

    >>> get_face_encoder().threshold
    1.04
    """
    return face_encoders.shared(name, device) if isinstance(name, str) else name
