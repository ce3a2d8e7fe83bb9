"""A personalized model for VLMEvalKit (PyPI package `nvidia-vlmeval`).

    from myvlm.integrations.vlmeval import register
    register("myvlm", "llava-hf/llava-1.5-7b-hf", concepts="concepts")
    register("plain", "llava-hf/llava-1.5-7b-hf")
    from vlmeval.run import main  # reads the command line: --data POPE MME --model myvlm plain
    main()

VLMEvalKit (extra `vlmeval`) is imported only when a model is registered or made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from myvlm.errors import InputError
from myvlm.integrations.personalized import (
    answers,
    generation_options,
    import_kit,
    one_picture,
    open_personalized,
)

CLASS = "MyVLMForVLMEvalKit"
PACKAGE = {"package": "nvidia-vlmeval", "extra": "vlmeval"}


def register(name: str, pretrained: str, **options: Any) -> None:
    """Register a model with VLMEvalKit under a name for `--model`; the kit loads it when it is used.

    Args:
        name: such as `myvlm`.
        pretrained: `tinyworld/llava`, a hub name or a folder.
        options: arguments of `VLMEvalModel`.

    Raises:
        InputError: VLMEvalKit is not installed, or has another model of this name.
    """
    known: dict[str, Any] = import_kit("vlmeval.config", **PACKAGE).supported_VLM
    if name in known and getattr(known[name], "func", None) is not model_class():
        raise InputError(
            f"VLMEvalKit already has a model {name!r}.",
            got=name,
            expected="another name",
            fix="register it as 'myvlm'",
        )
    known[name] = partial(model_class(), pretrained, **options)


class VLMEvalModel:
    """VLMEvalKit's model interface on top of `MyVLM`; `model_class` combines it with the kit's base class.

    Args:
        pretrained: `tinyworld/llava`, a hub name or a folder.
        concepts: folder of concept folders; None for no concepts.
        plain: whether to answer without the concepts even if they are loaded.
        device, dtype, encoder: see `MyVLM.from_pretrained`.
        generation: options of transformers' `generate`, such as `{"max_new_tokens": 16}`; by default greedy
            with up to 512 new tokens.

    Raises: as `open_personalized`.
    """

    INTERLEAVE = False
    is_api = False

    def __init__(
        self,
        pretrained: str,
        *,
        concepts: str | None = None,
        plain: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        encoder: str | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.vlm = open_personalized(
            pretrained, concepts=concepts, device=device, dtype=dtype, encoder=encoder
        )
        self.plain = plain
        self.options = generation_options(generation or {}, max_new_tokens=512)

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """Answer a message of VLMEvalKit, a list of parts of type `image` (a path) and `text`.

        Raises:
            InputError: the message has no picture, or several.
        """
        picture = one_picture(
            [part["value"] for part in message if part["type"] == "image"], dataset or "A message"
        )
        question = "\n".join(part["value"] for part in message if part["type"] == "text")
        return answers(self.vlm, [picture], question, self.options, plain=self.plain)[0]


@cache
def model_class() -> Any:
    """The model class that VLMEvalKit instantiates.

    Raises:
        InputError: VLMEvalKit is not installed.
    """
    base = import_kit("vlmeval.vlm.base", **PACKAGE).BaseModel
    return type(CLASS, (VLMEvalModel, base), {"__module__": __name__, "__doc__": VLMEvalModel.__doc__})
