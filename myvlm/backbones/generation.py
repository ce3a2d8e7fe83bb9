"""Running transformers' `generate`: the caller's options, words that must not be generated, and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from myvlm.errors import BackboneError, InputError, MyVLMError, check_is, first_line

GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 64, "num_return_sequences": 1}
ADDED_OPTIONS = ("tokenizer",)
"""Options that this library adds itself, besides logits processors."""
REFUSED_OPTIONS = ("num_return_sequences", "return_dict_in_generate", "inputs", "input_ids", "inputs_embeds")
ASSISTED_OPTIONS = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens", "use_mtp")
"""Options with which transformers proposes several tokens at once."""


class SpelledWords:
    """Words with their token ids.

    Args:
        spellings: for each word, the sequences of token ids that write it.
    """

    def __init__(self, spellings: Mapping[str, Iterable[Sequence[int]]]) -> None:
        self.spelled = {word: {tuple(ids) for ids in written if ids} for word, written in spellings.items()}
        self.ends: dict[tuple[int, ...], list[tuple[int, str]]] = {}
        """Maps all tokens of a spelling but the last to the possible last tokens, each with its word."""
        for word, written in self.spelled.items():
            for ids in written:
                self.ends.setdefault(ids[:-1], []).append((ids[-1], word))
        self.before = max(map(len, self.ends), default=0)
        """Length of the longest key of `ends`."""


@dataclass(frozen=True)
class ForbiddenWords:
    """Words that one reply must not contain: all of `words` except those in `allowed`.

    >>> names = SpelledWords({"Bo": [[7]], "Fido": [[3, 4, 5], [9, 5]]})
    >>> ForbiddenWords(names).after([1, 3, 4]), ForbiddenWords(names, frozenset({"Fido"})).after([1, 3, 4])
    (([7, 5], []), ([7], []))

    If an allowed word begins with a forbidden one, it may be written, and once begun must be completed:

    >>> words = SpelledWords({"Anna": [[1]], "Anna Maria": [[1, 2]]})
    >>> anna_maria = ForbiddenWords(words, frozenset({"Anna Maria"}))
    >>> anna_maria.after([]), anna_maria.after([1])
    (([], []), ([], [2]))
    """

    words: SpelledWords
    allowed: frozenset[str] = field(default_factory=frozenset)

    def after(self, chosen: Sequence[int]) -> tuple[list[int], list[int]]:
        """Constraints on the next token, given the chosen ones: forbidden tokens, and tokens of which one is
        required. Forbidden are those that would complete a forbidden word, unless it is part of an allowed
        word being written. Some are required if a forbidden word inside an allowed word was just completed.
        """
        counts = range(min(self.words.before, len(chosen)) + 1)
        tails = [tuple(chosen[len(chosen) - count :]) for count in counts]
        ends = [
            token
            for tail in tails
            for token, word in self.words.ends.get(tail, ())
            if word not in self.allowed
            and not any((*longer, token) in self._allowed_prefixes for longer in tails)
        ]
        return ends, [token for tail in tails for token in self._allowed_prefixes.get(tail, ())]

    @cached_property
    def _allowed_prefixes(self) -> dict[tuple[int, ...], list[int]]:
        """Maps each prefix of an allowed word to the tokens that must follow it, if any: those that continue
        the word once the prefix contains a complete forbidden word."""
        prefixes: dict[tuple[int, ...], list[int]] = {}
        for ids in (ids for word in self.allowed for ids in self.words.spelled.get(word, ())):
            must_go_on = False
            for end in range(1, len(ids) + 1):
                must_go_on = must_go_on or self._completes_forbidden(ids[:end])
                prefixes.setdefault(ids[:end], []).extend(ids[end : end + 1] if must_go_on else ())
        return prefixes

    def _completes_forbidden(self, ids: tuple[int, ...]) -> bool:
        """Whether the last of these tokens completes a forbidden word."""
        return any(
            token == ids[-1] and word not in self.allowed
            for start in range(len(ids))
            for token, word in self.words.ends.get(ids[start:-1], ())
        )


class ForbiddenWordsProcessor:
    """Logits processor for transformers that keeps each sample, in all its beams, from writing certain words.

    Args:
        samples: the forbidden words of each sample of the batch, or None.
    """

    def __init__(self, samples: Sequence[ForbiddenWords | None]) -> None:
        self.samples = samples

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        beams = len(scores) // len(self.samples)
        before = max(one.words.before for one in self.samples if one)
        chosen = input_ids[:, max(input_ids.shape[1] - before, 0) :].tolist()
        unsaid: list[tuple[int, int]] = []
        begun: list[tuple[int, int]] = []
        for row, own in enumerate(chosen):
            if one := self.samples[row // beams]:
                ends, going_on = one.after(own)
                unsaid += [(row, token) for token in ends]
                begun += [(row, token) for token in going_on]
        if unsaid:
            rows, tokens = torch.tensor(unsaid, device=scores.device).unbind(1)
            scores = scores.index_put((rows, tokens), scores.new_tensor(-torch.inf))
        if begun:
            rows, tokens = torch.tensor(begun, device=scores.device).unbind(1)
            only = torch.full_like(scores, -torch.inf).index_put((rows, tokens), scores[rows, tokens])
            is_begun = torch.zeros(len(scores), 1, dtype=torch.bool, device=scores.device)
            scores = torch.where(is_begun.index_fill(0, rows, True), only, scores)
        return scores


class SuppressedTokenProcessor:
    """Logits processor for transformers that suppresses one token.

    Transformers' own `suppress_tokens` compares the whole vocabulary with its list at every step.

    >>> SuppressedTokenProcessor(1)(torch.zeros(1, 0), torch.ones(1, 3))
    tensor([[1., -inf, 1.]])
    """

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()  # another processor may hold a reference to it
        scores[:, self.token] = -torch.inf
        return scores


def with_suppressed_token(options: Mapping[str, Any], token: int) -> dict[str, Any]:
    """The options of `generate` with a processor that suppresses one token."""
    return {
        **options,
        "logits_processor": [*(options.get("logits_processor") or ()), SuppressedTokenProcessor(token)],
    }


def with_forbidden_words(
    options: Mapping[str, Any], samples: Sequence[ForbiddenWords | None]
) -> dict[str, Any]:
    """The options of `generate` with a processor that forbids each sample of the batch its words."""
    if not any(samples):
        return dict(options)
    return {
        **options,
        "logits_processor": [*(options.get("logits_processor") or ()), ForbiddenWordsProcessor(samples)],
    }


def run_generate(model: Any, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """Run `generate` and return its ids, which begin with the prompt's in models that repeat the prompt.

    Raises:
        InputError: transformers rejects the caller's options or the model's own generation settings.
    """
    given = [
        name for name, one in options.items() if name not in ADDED_OPTIONS and one is not GREEDY.get(name)
    ]
    if all(
        isinstance(one, ForbiddenWordsProcessor | SuppressedTokenProcessor)
        for one in options.get("logits_processor") or ()
    ):
        given = [name for name in given if name != "logits_processor"]
    try:
        output = model.generate(**inputs, **options)
        return getattr(output, "sequences", output)  # a generation config may request more than the ids
    except (TypeError, ValueError, AttributeError, IndexError, BackboneError) as error:
        settings = [f"model.generation_config.{name}" for name in _own_generation_settings(model)]
        deliberate = isinstance(error, MyVLMError) and not is_assisted(model, options)
        if deliberate or not (given or settings):
            raise
        raise InputError(
            f"The model cannot generate with {'these options' if given else 'its own settings'}.",
            got=f"{', '.join(given or settings)}; {type(error).__name__}: {first_line(error)}",
            expected="arguments of transformers' `generate`, such as max_new_tokens=64, num_beams=3",
            fix="check their names and values, or leave them out",
        ) from error


def _own_generation_settings(model: Any) -> list[str]:
    """Names of the model's own generation settings that decide how tokens are chosen, such as sampling."""
    config = getattr(model, "generation_config", None)
    own = config.to_diff_dict() if config is not None else {}
    others = re.compile(r".*_id|transformers_version|_from_model_config|output_.*|use_cache")
    return sorted(name for name in own if not others.fullmatch(name))


def generate_options(generation: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's options of transformers' `generate`, with defaults for greedy decoding filled in.

    Raises:
        InputError: an option would change what is returned.

    >>> generate_options({"num_beams": 3})
    {'do_sample': False, 'num_beams': 3, 'max_new_tokens': 64, 'num_return_sequences': 1}
    """
    config = generation.get("generation_config")
    if config is not None and not hasattr(config, "num_return_sequences"):
        check_is(config, (), what="generation_config", expected="a GenerationConfig of transformers")
    refused = [name for name in REFUSED_OPTIONS if name in generation]
    if config is not None and (config.num_return_sequences or 1) != 1:
        refused.append("generation_config.num_return_sequences")
    if refused:
        raise InputError(
            "An option of `generate` would change what is returned.",
            got=", ".join(refused),
            expected="options that control how the next token is chosen",
            fix="leave it out: one reply per image is returned",
        )
    if config is not None:
        return dict(generation)
    defaults = {
        key: value
        for key, value in GREEDY.items()
        if key != "max_new_tokens" or "max_length" not in generation
    }
    return {**defaults, **generation}


def options_for(model: Any, tokenizer: Any, generation: Mapping[str, Any]) -> dict[str, Any]:
    """`generate_options`, with the tokenizer added if there are stop strings, which need it."""
    options = generate_options(generation)
    if options.get("stop_strings") or getattr(_config(model, options), "stop_strings", None):
        options.setdefault("tokenizer", tokenizer)
    return options


def is_sampled(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether `generate` samples tokens with these options. If a configuration that is passed leaves this
    open, the model's own configuration decides."""
    told = [options.get("do_sample")]
    if options.get("generation_config") is not None:
        configs = (options["generation_config"], getattr(model, "generation_config", None))
        told += [getattr(one, "do_sample", None) for one in configs]
    return bool(next((one for one in told if one is not None), False))


def is_assisted(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether `generate` checks several tokens at once that a second model or the prompt itself proposes."""
    config = _config(model, options)
    return any(options.get(name, getattr(config, name, None)) for name in ASSISTED_OPTIONS)


def can_reuse_cache(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether `generate` can continue from a key/value cache that ends in padding.

    It can if neither the model nor the caller chooses another kind of cache, the model uses the position ids
    that it is given, and no layer counts columns, as sliding-window layers do."""
    config = _config(model, options)
    wanted = {
        name: options.get(name, getattr(config, name, None)) for name in ("cache_implementation", "use_cache")
    }
    layers = model.config.get_text_config()
    counted = (getattr(layers, name, None) for name in ("sliding_window", "attention_chunk_size"))
    own = wanted["cache_implementation"] is not None or wanted["use_cache"] is False
    return not own and not any(counted) and _uses_position_ids(model)


def _uses_position_ids(model: Any) -> bool:
    """Whether the model uses the position ids of `generate`, which skip padding, or counts columns itself."""
    two = torch.ones(1, 2, dtype=torch.long, device=model.device)
    told = model.prepare_inputs_for_generation(
        two, attention_mask=two, position_ids=two.cumsum(1) - 1, use_cache=True, is_first_iteration=True
    )
    return told.get("position_ids") is not None


def _config(model: Any, options: Mapping[str, Any]) -> Any:
    """The configuration that `generate` reads: the caller's if given, else the model's."""
    return options.get("generation_config") or getattr(model, "generation_config", None)
