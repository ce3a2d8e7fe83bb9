"""The interface of backbones: a frozen vision-language model plus the code that is specific to its family.

`Backbone` is the contract that the rest of the library relies on; `myvlm.testing.check_backbone` tests it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from myvlm.backbones import tokens as text
from myvlm.backbones.fingerprint import weights_fingerprint
from myvlm.backbones.frozen import device_of, exclusive_use, frozen, unquantised
from myvlm.backbones.generation import ForbiddenWords, options_for, with_forbidden_words
from myvlm.backbones.probe import Lack, Probe
from myvlm.boxes import Box, Point
from myvlm.errors import InputError

NormRule = Literal["visual_mean", "first_patch", "none"]
"""The norm that a concept row is rescaled to: the mean norm of the sample's projected visual tokens, the norm
of the first visual token, or none: the row keeps its own norm, which learning initialises to √dim."""
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class ConceptRows:
    """The embedding rows that are inserted into a model for one concept.

    Args:
        directions: `R × D` float32, `R ≥ 1`; may require grad. Their norms matter only if `norm` is `"none"`.
        norm: the norm that each row is rescaled to (§3.3 of https://arxiv.org/abs/2403.14599). In a Q-Former
            the rule also applies to the row's keys and values (eq. 3).

    Raises:
        InputError: `directions` is not an `R × D` float tensor, or `norm` is not a known rule.

    >>> ConceptRows(torch.ones(1, 8)).count
    1
    """

    directions: Tensor
    norm: NormRule = "visual_mean"

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or 0 in self.directions.shape or not self.directions.is_floating_point():
            raise InputError(
                "A concept embedding has the wrong shape or type.",
                got=f"{tuple(self.directions.shape)} {self.directions.dtype}",
                expected="(rows, dim), at least one row, floating point",
                fix="pass one row per concept vector, for example `vector.unsqueeze(0)`")  # fmt: skip
        if self.norm not in get_args(NormRule):
            raise InputError(
                "Unknown norm rule for concept rows.",
                got=repr(self.norm), expected=f"one of {', '.join(get_args(NormRule))}",
                fix="leave `norm` out for the default, 'visual_mean'")  # fmt: skip

    @property
    def count(self) -> int:
        """Number of rows `R`."""
        return self.directions.shape[0]

    def entering(self, norms: Mapping[str, Tensor]) -> Tensor:
        """The rows, rescaled: `R × D`, differentiable, in the dtype of `norms` (one scalar per norm rule)."""
        directions = self.directions.to(norms["visual_mean"])
        if self.norm == "none":
            return directions
        return functional.normalize(directions, dim=-1) * norms[self.norm]


class HasEmbeddings(Protocol):
    """An object with one learned embedding per frozen model, such as a concept."""

    def embedding_for(self, backbone: str, fingerprint: str, dim: int) -> Any:
        """The embedding learned on these weights: `directions` (`R × D`) and its norm rule, `norm`."""


def visual_norms(tokens: Tensor) -> dict[str, Tensor]:
    """The target norm of each norm rule, given visual tokens `T × D`: scalars, at least float32."""
    sizes = tokens.detach().to(torch.promote_types(tokens.dtype, torch.float32)).norm(dim=-1)
    return {"visual_mean": sizes.mean(), "first_patch": sizes[0]}


@dataclass(frozen=True, eq=False)
class Loss:
    """The two terms of the training objective: scalars, differentiable in the concept's directions only.

    Args:
        cross_entropy: mean over the answer's tokens, end of sequence included.
        attention: `Σ_layers mean(p²)`, where `p` is the attention probability given to the concept's columns
            (eq. 4 and §3.3 of https://arxiv.org/abs/2403.14599); zero if no sample has rows.
        by_sample: returns both terms per sample, so that several concepts can be learned in one batch. None
            if the family cannot provide them; each concept is then learned in its own batches.
    """

    cross_entropy: Tensor
    attention: Tensor
    by_sample: Callable[[], SampleLosses] | None = None


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """The two terms of the training objective, per sample.

    Args:
        by_token: `B × N`, the loss of each token of the answers; zero at all other positions.
        targets: `B × N`, the ids of these tokens; -100 at all other positions.
        attention: `B`, `Σ_layers mean(p²)`; zero for a sample without rows.
    """

    by_token: Tensor
    targets: Tensor
    attention: Tensor

    def of(self, samples: slice) -> Loss:
        """The objective of a slice of the batch as if it were the whole batch; each sample must have rows."""
        count = (self.targets[samples] != text.IGNORED).sum()
        return Loss(self.by_token[samples].sum() / count, self.attention[samples].mean())


@dataclass(frozen=True, eq=False)
class Generation:
    """One generated reply: its text and its `N` new token ids, without end of sequence or padding, on CPU."""

    text: str
    token_ids: Tensor


class Backbone(ABC):
    """A frozen vision-language model into which concept embeddings can be inserted.

    No method changes the user's model: weights, gradients, `requires_grad`, train/eval mode, tokenizer,
    embedding table and the hooks of other code are afterwards as they were before.

    Args:
        model: a transformers model.
        processor: its processor (image processor and tokenizer).
        name: the name of this backbone in concept files; the checkpoint's name by default.
    """

    family: ClassVar[str]
    """The name under which the family is registered."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """The values of `config.model_type` that this family handles."""
    default_caption_prompt: ClassVar[str] = "Describe the image."
    """The default of an instance's `caption_prompt`, the instruction with which captions are requested."""
    caption_prompts: ClassVar[tuple[str, ...]] = ()
    """Instructions under which captions are learned; if empty, those of `myvlm.learning.dataset`."""
    lacks: ClassVar[Mapping[Lack, str]] = {}
    """Features that the family does not support, each with the reason; `myvlm.testing` skips only these."""
    images_at_once: int = 16
    """Most pictures per forward pass, in encoding and in generation; this bounds the memory used."""

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        self.model = model
        self.processor = processor
        self.name = name or getattr(model.config, "_name_or_path", "") or self.family
        self.caption_prompt = self.default_caption_prompt
        self._fingerprint: str | None = None

    @classmethod
    def matches(cls, model: Any) -> bool:
        """Whether the model belongs to this family, judged by `config.model_type`."""
        return getattr(getattr(model, "config", None), "model_type", None) in cls.model_types

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width `D` of a concept row."""

    @property
    def device(self) -> torch.device:
        """The device on which the model expects its inputs."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """The floating point type in which the model computes."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Context manager that keeps the model in eval mode without `requires_grad`; restored on exit.

        A graph built inside it does not reach any weight, even if `backward` is called after the exit.
        Nesting is free, so training enters it once around all steps. Threads may overlap; see `frozen`.
        """
        with frozen(self.model):
            yield

    def rows_of(self, concept: HasEmbeddings) -> ConceptRows:
        """The rows of a concept's embedding that was learned on this model's weights.

        Raises:
            ConceptFileError: the concept was learned only for other models.
        """
        learned = concept.embedding_for(self.name, self.fingerprint(), self.dim)
        return ConceptRows(torch.from_numpy(learned.directions), learned.norm)

    def fingerprint(self) -> str:
        """A short hash of the frozen weights, equal for every floating point type and for quantised copies.

        Matrices of linear layers, which quantisation changes, are left out: models that differ only in these
        (LoRA) share a fingerprint.
        """
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(unquantised(self.model))
        return self._fingerprint

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> list[Any]:
        """Encode images without gradient, up to the point where a concept is inserted: one object per image.

        It holds the visual tokens and the inputs that belong to them, in a format specific to the family;
        `len` of it is the number of visual tokens.
        """

    @abstractmethod
    def answer_loss(
        self,
        features: Sequence[Any],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        """The training objective of these answers, given features from `encode`.

        Args:
            features: features of `B` images.
            prompts: `B` bare instructions.
            answers: `B` target texts.
            rows: for each of the `B` samples, the rows of the concepts in it, possibly none.

        Raises:
            InputError: the four lists differ in length, or a row has the wrong width.
            BackboneError: the rows were not inserted at the expected positions.
        """

    def prefixes(self, features: Sequence[Any]) -> list[Any] | None:
        """The key/value cache of everything before the concept, one per item of `features`, for `tail_loss`.

        None if the prefix depends on the concept, as the family declares in `lacks`; use `answer_loss` then.
        """
        return None

    def tail_loss(
        self,
        prefixes: Sequence[Any],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        """`answer_loss` computed from cached prefixes, equal up to rounding."""
        raise NotImplementedError

    def tail_losses(self, texts: Sequence[tuple[str, str]], rows: int) -> Callable[..., Loss]:
        """A `tail_loss` function for many steps in a row; it may hold memory until it is garbage-collected.

        Args:
            texts: all pairs of prompt and answer that may occur.
            rows: largest number of rows of a concept.
        """
        return self.tail_loss

    def generate(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[text.Prompt],
        rows: Sequence[Sequence[ConceptRows]],
        *,
        unsaid: Sequence[ForbiddenWords | None] = (),
        **generation: Any,
    ) -> list[Generation]:
        """Generate one reply for each image with its prompt, in order, in batches of `images_at_once`.

        A prompt is a bare instruction, or the turns of a conversation about the image, the question last.
        Samples without rows are batched separately and run exactly as in plain transformers. Words in
        `unsaid` are never generated. `generation` are keyword arguments of transformers' `generate`; decoding
        is greedy by default.

        Raises:
            InputError: the lists differ in length, a row has the wrong width, or an option of `generate`
                would change what is returned.
            BackboneError: the rows were not inserted at the expected positions.
        """
        words = unsaid or [None] * len(rows)
        self._check(rows, images=images, prompts=prompts, unsaid=words)
        options = options_for(self.model, self.processor.tokenizer, generation)
        replies: dict[int, Generation] = {}
        plain = [index for index, concepts in enumerate(rows) if not concepts]
        taught = [index for index, concepts in enumerate(rows) if concepts]
        with self.frozen(), exclusive_use(self.model), torch.no_grad():
            for samples in (*self._in_batches(plain), *self._in_batches(taught)):
                shown, asked = [images[i] for i in samples], [prompts[i] for i in samples]
                own = with_forbidden_words(options, [words[i] for i in samples])
                made = self._replies(shown, asked, [rows[i] for i in samples], own)
                replies.update(zip(samples, made, strict=True))
        return [replies[index] for index in range(len(rows))]

    def replies_to_each(
        self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt], **generation: Any
    ) -> list[list[Generation]]:
        """The plain model's replies to every prompt, a list for each picture, of which there is at least one.
        Equal to `generate`'s up to rounding; a family may run a picture once for all prompts."""
        shown, asked = [one for one in images for _ in prompts], [*prompts] * len(images)
        replies = iter(self.generate(shown, asked, [[] for _ in shown], **generation))
        return [[next(replies) for _ in prompts] for _ in images]

    @abstractmethod
    def _replies(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[text.Prompt],
        rows: Sequence[Sequence[ConceptRows]],
        options: Mapping[str, Any],
    ) -> list[Generation]:
        """Replies of one sub-batch: by plain transformers if no sample has rows, else with the rows inserted.

        Args:
            options: options of transformers' `generate`, with defaults filled in.
        """

    @abstractmethod
    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Attention over the image's tokens when the model predicts `word`: `h × w` float32, sum 1.

        The mean over layers and heads of the attention of the position that predicts the word's first token
        in `answer`. If the answer lacks the word, the attention of the concept's rows is taken instead.

        Raises:
            InputError: the answer lacks the word and there are no rows.
        """

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box that `attention_map` covers in a picture of that width and height; all of it by default."""
        return 0.0, 0.0, float(size[0]), float(size[1])

    def hinted(self, hint: str, prompt: str) -> str | None:
        """The instruction with a hint before it, such as `sks is the mug.`; None if it cannot take one."""
        return f"{hint} {prompt}".strip()

    def refer(self, name: str) -> str | None:
        """The instruction to locate an object, as in the family's training; None if it has no such task."""
        return None

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        """The box in a reply to `refer`, in pixels of a picture of that width and height; None if no box."""
        return None

    def read_point(self, reply: str, size: tuple[int, int]) -> Point | None:
        """The point in a reply to `refer`, for a family that locates an object without giving its size."""
        return None

    def word_ids(self, word: str) -> list[int]:
        """The token ids of a word in the middle of a sentence."""
        return text.answer_ids(self.processor.tokenizer, "a", word)

    @abstractmethod
    def word_direction(self, word: str) -> Tensor | None:
        """The unit direction of a word's embedding, or of the row nearest to it: `D` float32; or None."""

    def token_directions(self, words: str) -> Tensor | None:
        """Unit directions of the tokens of words in a sentence, `N × D` float32; None if no row is a word."""
        return None

    @abstractmethod
    def probe(self) -> Probe:
        """Access to internals, so that `myvlm.testing` can compare the family with plain transformers."""

    def _in_batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """Split the items, one per picture, into batches of at most `images_at_once`."""
        for start in range(0, len(items), self.images_at_once):
            yield items[start : start + self.images_at_once]

    def _check(self, rows: Sequence[Sequence[ConceptRows]], **others: Sequence[Any]) -> None:
        """Raise InputError unless every list has one entry per sample and every row is `dim` wide."""
        lengths = {"rows": len(rows), **{name: len(values) for name, values in others.items()}}
        if len(set(lengths.values())) != 1 or not lengths["rows"]:
            raise InputError(
                "Each list needs one entry per sample.",
                got=", ".join(f"{length} {name}" for name, length in lengths.items()),
                expected="lists of equal length, at least 1", fix="pass [] for a sample without rows",
            )  # fmt: skip
        for width in {concept.directions.shape[1] for concepts in rows for concept in concepts}:
            if width != self.dim:
                raise InputError(
                    "The width of a concept embedding differs from the model's.",
                    got=width, expected=f"{self.dim} ({self.name})",
                    fix="use an embedding learned for this backbone")  # fmt: skip
