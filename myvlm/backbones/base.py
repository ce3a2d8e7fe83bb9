"""What every backbone is: a frozen vision-language model plus what we must know about its family.

`Backbone` is the contract that the library builds on, `myvlm.testing.check_backbone` its test.
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
from myvlm.backbones.frozen import device_of, frozen, in_turn, unquantised
from myvlm.backbones.generation import Unsaid, leaving_unsaid, options_for
from myvlm.backbones.probe import Lack, Probe
from myvlm.boxes import Box, Point
from myvlm.errors import InputError

NormRule = Literal["visual_mean", "first_patch", "none"]
"""The norm that a concept row is rescaled to: the mean norm of the sample's projected visual tokens,
the norm of the first of them, or as it stands: learning starts it at √dim."""
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class ConceptRows:
    """What enters the model for one concept.

    Args:
        directions: `R × D` float32, `R ≥ 1`; may require grad. Only the direction of a row matters,
            unless `norm` is `"none"`.
        norm: what each row's norm is set to (§3.3 of https://arxiv.org/abs/2403.14599); in a Q-Former also
            its keys' and values' (eq. 3).

    Raises:
        InputError: `directions` is no `R × D` float tensor, or `norm` is not a known rule.

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
        """How many rows."""
        return self.directions.shape[0]

    def entering(self, norms: Mapping[str, Tensor]) -> Tensor:
        """`R × D`, the rows as they enter, of the type of `norms` (a scalar by rule), differentiable."""
        directions = self.directions.to(norms["visual_mean"])
        if self.norm == "none":
            return directions
        return functional.normalize(directions, dim=-1) * norms[self.norm]


class HasEmbeddings(Protocol):
    """What has embeddings that were learned on frozen models, one for each: a concept."""

    def embedding_for(self, backbone: str, fingerprint: str, dim: int) -> Any:
        """The one of these weights: `directions`, R × D, and the rule of its `norm`."""


def visual_norms(tokens: Tensor) -> dict[str, Tensor]:
    """What a row's norm can be set to, by rule, from visual tokens `T × D`: scalars, at least float32."""
    sizes = tokens.detach().to(torch.promote_types(tokens.dtype, torch.float32)).norm(dim=-1)
    return {"visual_mean": sizes.mean(), "first_patch": sizes[0]}


@dataclass(frozen=True, eq=False)
class Loss:
    """The two parts of the objective, each a scalar that is differentiable in the directions only.

    Args:
        cross_entropy: mean over the answer's tokens, end of sequence included.
        attention: `Σ_layers mean(p²)`, `p` the attention probability given to the concept's columns
            (eq. 4 and §3.3 of https://arxiv.org/abs/2403.14599); zero where no sample has rows.
        by_sample: gives the same by sample, so that several concepts can learn in one batch; None where a
            family cannot: then each concept has batches of its own.
    """

    cross_entropy: Tensor
    attention: Tensor
    by_sample: Callable[[], SampleLosses] | None = None


@dataclass(frozen=True, eq=False)
class SampleLosses:
    """The two parts of the objective by sample.

    Args:
        by_token: `B × N`, the loss of each of an answer's tokens; zero elsewhere.
        targets: `B × N`, the ids of these tokens; -100 elsewhere.
        attention: `B`, `Σ_layers mean(p²)`; zero where a sample has no rows.
    """

    by_token: Tensor
    targets: Tensor
    attention: Tensor

    def of(self, samples: slice) -> Loss:
        """The objective of some samples, all of which have rows, as if they were the whole batch."""
        count = (self.targets[samples] != text.IGNORED).sum()
        return Loss(self.by_token[samples].sum() / count, self.attention[samples].mean())


@dataclass(frozen=True, eq=False)
class Generation:
    """One reply: its text, and its `N` new token ids without end of sequence and padding, on CPU."""

    text: str
    token_ids: Tensor


class Backbone(ABC):
    """A frozen vision-language model that concepts can speak through.

    Nothing of the user's model is changed by any method: weights, gradients, `requires_grad`,
    train/eval mode, tokenizer, embedding table and other people's hooks are as they were afterwards.

    Args:
        model: a transformers model.
        processor: its processor (image processor and tokenizer).
        name: what concept files call this backbone; the checkpoint's own name where not given.
    """

    family: ClassVar[str]
    """The name that the family is registered under."""
    model_types: ClassVar[tuple[str, ...]] = ()
    """What `config.model_type` says of its models."""
    default_caption_prompt: ClassVar[str] = "Describe the image."
    """What captions are asked with in use, until `caption_prompt` of a backbone says otherwise."""
    caption_prompts: ClassVar[tuple[str, ...]] = ()
    """Instructions that captions are learned under; none for those of `myvlm.learning.dataset`."""
    lacks: ClassVar[Mapping[Lack, str]] = {}
    """What the family cannot do, each with the reason; the contract of `myvlm.testing` skips nothing else."""
    images_at_once: int = 16
    """How many pictures the model is shown at once, to be encoded or to be spoken of; bounds its memory."""

    def __init__(self, model: Any, processor: Any, *, name: str | None = None) -> None:
        self.model = model
        self.processor = processor
        self.name = name or getattr(model.config, "_name_or_path", "") or self.family
        self.caption_prompt = self.default_caption_prompt
        self._fingerprint: str | None = None

    @classmethod
    def matches(cls, model: Any) -> bool:
        """Whether this family is the model's: by `config.model_type`."""
        return getattr(getattr(model, "config", None), "model_type", None) in cls.model_types

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width `D` of a concept row."""

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return device_of(self.model.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """The floating point type the model computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within it the model is in eval mode and no weight requires grad; afterwards as before.

        A graph that is built within it reaches no weight, even when `backward` is called afterwards.
        Nesting costs nothing: a learner enters it once, around all steps. Threads may overlap, see `frozen`.
        """
        with frozen(self.model):
            yield

    def rows_of(self, concept: HasEmbeddings) -> ConceptRows:
        """The rows that a concept learned on these weights.

        Raises:
            ConceptFileError: it was learned for other models alone.
        """
        learned = concept.embedding_for(self.name, self.fingerprint(), self.dim)
        return ConceptRows(torch.from_numpy(learned.directions), learned.norm)

    def fingerprint(self) -> str:
        """A short hash of the frozen weights: the same in every floating point type, and quantised.

        Linear maps' matrices, which are what is quantised, do not count: models that differ in nothing else
        (LoRA) have one fingerprint.
        """
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(unquantised(self.model))
        return self._fingerprint

    @abstractmethod
    def encode(self, images: Sequence[Image.Image]) -> list[Any]:
        """The frozen part of the walk, without gradient: what the language model is given of each image.

        Projected visual tokens and what goes with them, in a form of the family's own; `len` of one is
        its number of tokens.
        """

    @abstractmethod
    def answer_loss(
        self,
        features: Sequence[Any],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        """How far the model is from giving these answers, from features that `encode` made.

        Args:
            features: of `B` images.
            prompts: `B` bare instructions.
            answers: `B` target texts.
            rows: for each of the `B` samples the concepts in it, possibly none.

        Raises:
            InputError: the four do not have one length, or a row has the wrong width.
            BackboneError: the rows did not land where they should.
        """

    def prefixes(self, features: Sequence[Any]) -> list[Any] | None:
        """What stands before the concept, run once for each of `features` and kept for `tail_loss`.

        None where it depends on the concept, which the family declares: then `answer_loss` is the way.
        """
        return None

    def tail_loss(
        self,
        prefixes: Sequence[Any],
        prompts: Sequence[str],
        answers: Sequence[str],
        rows: Sequence[Sequence[ConceptRows]],
    ) -> Loss:
        """`answer_loss`, equal to rounding, from prefixes that `prefixes` made."""
        raise NotImplementedError

    def tail_losses(self, texts: Sequence[tuple[str, str]], rows: int) -> Callable[..., Loss]:
        """`tail_loss` for many steps in a row: what it gives may keep memory until it is let go of.

        Args:
            texts: all prompts and answers that there may be.
            rows: the most that a concept has.
        """
        return self.tail_loss

    def generate(
        self,
        images: Sequence[Image.Image],
        prompts: Sequence[text.Prompt],
        rows: Sequence[Sequence[ConceptRows]],
        *,
        unsaid: Sequence[Unsaid | None] = (),
        **generation: Any,
    ) -> list[Generation]:
        """Replies to one prompt an image, in the order given; any number, run `images_at_once` at a time.

        A prompt is a bare instruction, or the turns of a conversation about the image, the question last.
        Samples without rows run apart, exactly as in plain transformers. Greedy unless `generation`, the
        keyword arguments of transformers' `generate`, says otherwise; words that are `unsaid` are not said.

        Raises:
            InputError: the three do not have one length, a row has the wrong width, or an option of
                `generate` would change what is returned.
            BackboneError: the rows did not land where they should.
        """
        words = unsaid or [None] * len(rows)
        self._check(rows, images=images, prompts=prompts, unsaid=words)
        options = options_for(self.model, self.processor.tokenizer, generation)
        replies: dict[int, Generation] = {}
        plain = [index for index, concepts in enumerate(rows) if not concepts]
        taught = [index for index, concepts in enumerate(rows) if concepts]
        with self.frozen(), in_turn(self.model), torch.no_grad():
            for samples in (*self._at_once(plain), *self._at_once(taught)):
                shown, asked = [images[i] for i in samples], [prompts[i] for i in samples]
                own = leaving_unsaid(options, [words[i] for i in samples])
                made = self._replies(shown, asked, [rows[i] for i in samples], own)
                replies.update(zip(samples, made, strict=True))
        return [replies[index] for index in range(len(rows))]

    def replies_to_each(
        self, images: Sequence[Image.Image], prompts: Sequence[text.Prompt], **generation: Any
    ) -> list[list[Generation]]:
        """The plain model's replies to several prompts about each of at least one picture: `generate`'s, to
        rounding. A family may read a picture once for all its prompts."""
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
        """Replies of one sub-batch: through plain transformers when no sample has rows, else with them.

        Args:
            options: of transformers' `generate`, the defaults filled in.
        """

    @abstractmethod
    def attention_map(
        self, image: Image.Image, prompt: str, answer: str, word: str, rows: Sequence[ConceptRows]
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Where the model looks as it says `word`: `h × w` float32 over the image's tokens, sum 1.

        The attention of the position that predicts the word's first token in `answer`, or, where the
        answer lacks the word, of the concept's own rows; mean over layers and heads.

        Raises:
            InputError: the answer lacks the word and there are no rows.
        """

    def field_of_view(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The box of a picture of that width and height that `attention_map` covers; all of it by default."""
        return 0.0, 0.0, float(size[0]), float(size[1])

    def hinted(self, hint: str, prompt: str) -> str | None:
        """An instruction with something said before it, such as `sks is the mug.`; None if none can be."""
        return f"{hint} {prompt}".strip()

    def refer(self, name: str) -> str | None:
        """The instruction to say where a thing is, as the family was trained on it; None if it was not."""
        return None

    def read_box(self, reply: str, size: tuple[int, int]) -> Box | None:
        """The box in a reply to `refer`, in pixels of a picture of that width and height; None for no box."""
        return None

    def read_point(self, reply: str, size: tuple[int, int]) -> Point | None:
        """The point in a reply to `refer`, of a family that says where a thing is but not how large."""
        return None

    def word_ids(self, word: str) -> list[int]:
        """The token ids that the tokenizer makes of a word that stands in a sentence."""
        return text.answer_ids(self.processor.tokenizer, "a", word)

    @abstractmethod
    def word_direction(self, word: str) -> Tensor | None:
        """`D` float32 of unit length: where a word's embedding, or the row nearest to it, points; or None."""

    def token_directions(self, words: str) -> Tensor | None:
        """`N × D` float32 of unit length, of the tokens of words in a sentence; None: no row is a word."""
        return None

    @abstractmethod
    def probe(self) -> Probe:
        """What `myvlm.testing` needs to compare the family with plain transformers; use needs none of it."""

    def _at_once(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The items, one a picture, as many at a time as the model may be shown."""
        for start in range(0, len(items), self.images_at_once):
            yield items[start : start + self.images_at_once]

    def _check(self, rows: Sequence[Sequence[ConceptRows]], **others: Sequence[Any]) -> None:
        """Raise InputError unless all have one entry a sample and every row is `dim` wide."""
        lengths = {"rows": len(rows), **{name: len(values) for name, values in others.items()}}
        if len(set(lengths.values())) != 1 or not lengths["rows"]:
            raise InputError(
                "One entry a sample is needed in each list.",
                got=", ".join(f"{length} {name}" for name, length in lengths.items()),
                expected="lists of one length, at least 1", fix="pass [] as the rows of a sample without any",
            )  # fmt: skip
        for width in {concept.directions.shape[1] for concepts in rows for concept in concepts}:
            if width != self.dim:
                raise InputError(
                    "A concept embedding is of another width than this model's.",
                    got=width, expected=f"{self.dim} ({self.name})",
                    fix="use an embedding that was learned on this backbone")  # fmt: skip
