"""A personalized model for lmms-eval, to run POPE, MME, MMBench and other benchmarks on it.

    lmms-eval --model myvlm --tasks pope,mme \\
        --model_args pretrained=llava-hf/llava-1.5-7b-hf,concepts=concepts

lmms-eval finds it by the entry point `lmms_eval.models`. With the argument `plain=True` the frozen model
answers without concepts. lmms-eval (extra `lmms`) is imported only when the manifest or class is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.progress import Progress

from myvlm.errors import InputError
from myvlm.integrations.personalized import (
    answers,
    generation_options,
    import_kit,
    one_picture,
    open_personalized,
)

MODEL = "myvlm"
CLASS = "MyVLMForLmmsEval"
MAX_NEW_TOKENS = 1024  # the default of lmms-eval's own models


def manifest() -> Any:
    """Entry point `lmms_eval.models`: the model's name and the import path of its class.

    Raises:
        InputError: lmms-eval is not installed.
    """
    registry = import_kit("lmms_eval.models.registry_v2", package="lmms-eval", extra="lmms")
    return registry.ModelManifest(model_id=MODEL, simple_class_path=f"{__name__}.{CLASS}")


class LmmsModel:
    """lmms-eval's model interface on top of `MyVLM`; `model_class` combines it with lmms-eval's base class.

    Args:
        pretrained: `tinyworld/llava`, a hub name or a folder.
        concepts: folder of concept folders; None for no concepts.
        plain: whether to answer without the concepts even if they are loaded.
        device, dtype, encoder: see `MyVLM.from_pretrained`.
        batch_size: number of pictures per batch; a batch has one question and one set of options.
        max_batch_size: passed by lmms-eval; unused.

    Raises: as `open_personalized`.
    """

    is_simple = True
    task_dict: dict[str, Any]
    cache_hook: Any

    def __init__(
        self,
        pretrained: str,
        concepts: str | None = None,
        plain: bool = False,
        device: str | None = None,
        dtype: str | None = None,
        encoder: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
    ) -> None:
        super().__init__()
        self.vlm = open_personalized(
            pretrained, concepts=concepts, device=device, dtype=dtype, encoder=encoder
        )
        self.plain = plain
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer each request, in order: one picture and one question, with the task's generation settings.

        Raises:
            InputError: a request has no picture, or several.
        """
        replies = [""] * len(requests)
        by_question: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            by_question.setdefault(json.dumps(request.args[:2], sort_keys=True, default=str), []).append(
                index
            )
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("answering", total=len(requests))
            for group in by_question.values():
                for start in range(0, len(group), self.batch_size):
                    some = group[start : start + self.batch_size]
                    for index, reply in zip(some, self._replies([requests[i] for i in some]), strict=True):
                        replies[index] = reply
                    bar.advance(task, len(some))
        return replies

    def _replies(self, requests: Sequence[Any]) -> list[str]:
        """Answers to requests with the same question and the same settings."""
        question, settings = requests[0].args[:2]
        pictures = [self._picture(request) for request in requests]
        options = generation_options(settings, max_new_tokens=MAX_NEW_TOKENS)
        texts = answers(self.vlm, pictures, question, options, plain=self.plain)
        texts = [cut_at_stop_sequence(text, settings.get("until")) for text in texts]
        for text in texts:
            self.cache_hook.add_partial("generate_until", (question, settings), text)
        return texts

    def _picture(self, request: Any) -> Any:
        _, _, doc_to_visual, doc_id, task, split = request.args
        pictures = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        return one_picture(pictures, f"{task} {doc_id}")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise _unsupported_task("loglikelihood")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise _unsupported_task("generate_until_multi_round")


@cache
def model_class() -> Any:
    """The model class that lmms-eval instantiates.

    Raises:
        InputError: lmms-eval is not installed.
    """
    base = import_kit("lmms_eval.api.model", package="lmms-eval", extra="lmms").lmms
    return type(CLASS, (LmmsModel, base), {"__module__": __name__, "__doc__": LmmsModel.__doc__})


def __getattr__(name: str) -> Any:
    if name == CLASS:  # the import path in the manifest
        return model_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def cut_at_stop_sequence(text: str, ends: str | Sequence[str] | None) -> str:
    """Cut a reply at the first occurrence of any of its stop sequences.

    >>> cut_at_stop_sequence("a mug\\n\\nQuestion", ["\\n\\n"])
    'a mug'
    """
    for end in [ends] if isinstance(ends, str) else ends or []:
        text = text.split(end)[0] if end else text
    return text


def _unsupported_task(kind: str) -> InputError:
    return InputError(
        "A personalized model supports only generation, not likelihoods or several rounds.",
        got=f"a task of type {kind}",
        expected="generate_until",
        fix="choose another task, or its generative variant",
    )
