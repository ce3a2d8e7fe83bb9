"""Token ids of prompts, answers and words, computed identically in training and in use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from myvlm.backbones.frozen import exclusive_tokenizer, weight_of
from myvlm.errors import BackboneError, InputError
from myvlm.text import check_written, find_word, fold

Prompt: TypeAlias = str | tuple[str, ...]
"""A bare instruction, or the turns of a conversation: question, reply, question …, ending in a question."""

IGNORED = -100  # the label that cross-entropy ignores
_REPLY = {"role": "assistant", "content": [{"type": "text", "text": "myvlm"}]}
_FIXED_DATE = datetime(2025, 3, 17)
"""The date in chat templates that write one: fixed, so that prompts in use are those that were learned."""
_CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
_RESERVED = re.compile(r"reserved|unused|<SPECIAL_\d", re.IGNORECASE)


def turns_of(prompt: Prompt) -> tuple[str, ...]:
    """The turns of a prompt; those with even index are the user's.

    >>> turns_of("What is this?"), turns_of(("What is this?", "a mug", "Whose?"))
    (('What is this?',), ('What is this?', 'a mug', 'Whose?'))
    """
    return (prompt,) if isinstance(prompt, str) else prompt


def single_turn(prompt: Prompt) -> str:
    """The prompt as a single instruction, for models that have no format for conversations.

    Raises:
        InputError: the prompt has several turns.
    """
    first, *later = turns_of(prompt)
    if later:
        raise InputError(
            "This model's prompts do not support conversations.",
            got=f"{len(later) + 1} turns",
            expected="one question",
            fix="ask each question on its own, or set processor.chat_template to the checkpoint's own",
        )
    return first


def render(processor: Any, template: str | None, prompt: Prompt) -> str:
    """The prompt in the model's format: by `template`, or by the processor's chat template if it is None.

    It contains the user's turn, image before text, then later turns, and the start of the assistant's turn. A
    chat template that writes the date (Mistral Small 3.1, Llama 3) gets a fixed one, in training and in use.

    Raises:
        InputError: the prompt has several turns and there is no chat template for them.
    """
    if template is not None:
        return template.format(image=processor.image_token, prompt=single_turn(prompt))
    first, *later = turns_of(prompt)
    after = [
        {"role": "user" if place % 2 else "assistant", "content": [{"type": "text", "text": turn}]}
        for place, turn in enumerate(later)
    ]
    rendered: str = processor.apply_chat_template(
        [_turn(first), *after], add_generation_prompt=True, tokenize=False, **_fixed_date_template(processor)
    )
    return rendered


def _fixed_date_template(processor: Any) -> dict[str, str]:
    """The chat template with a fixed date if it writes the current one, as a keyword argument."""
    template = getattr(processor, "chat_template", None)
    template = template.get("default", "") if isinstance(template, dict) else template or ""
    if not _CLOCK.search(template):
        return {}
    return {"chat_template": _CLOCK.sub(lambda found: repr(_FIXED_DATE.strftime(found[2])), template)}


def check_template(processor: Any, template: str | None) -> None:
    """Raise BackboneError unless a rendered prompt has one image placeholder."""
    mark = getattr(processor, "image_token", None)
    if template is None and getattr(processor, "chat_template", None) is None:
        rendered = "no chat template"
    else:
        rendered = repr(render(processor, template, "a"))
        if mark is None or rendered.count(str(mark)) == 1:
            return
    raise BackboneError(
        "The chat template inserts no image placeholder.",
        got=rendered,
        expected=f"one image placeholder ({mark}) for a turn with an image and a text",
        fix="set processor.chat_template to the checkpoint's own; a language model's template has no images",
    )


def eos_ids(model: Any, tokenizer: Any, ends: Sequence[str] = ()) -> list[int]:
    """The ids that end a reply: the tokens `ends` that the vocabulary has, then the generation settings'."""
    vocabulary, eos = tokenizer.get_vocab(), model.generation_config.eos_token_id
    eos = tokenizer.eos_token_id if eos is None else eos
    settled = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return list(dict.fromkeys([*(vocabulary[end] for end in ends if end in vocabulary), *settled]))


def end_of_turn_first(processor: Any, eos_ids: Sequence[int]) -> list[int]:
    """The ids that end a reply, sorted so that the one the chat template writes after a reply comes first.

    Gemma's list begins with the end of a document, which does not end replies in a conversation.
    """
    after = _render_with_reply(processor).rpartition("myvlm")[2]
    tokens = {token: processor.tokenizer.convert_ids_to_tokens(token) for token in eos_ids}
    places = {token: after.find(word) for token, word in tokens.items() if word and word in after}
    return sorted(eos_ids, key=lambda token: places.get(token, len(after)))


def reply_follows_without_space(processor: Any) -> bool:
    """Whether the chat template puts a reply right after the prompt, without a space, as Mistral's do."""
    before, written, _ = _render_with_reply(processor).partition("myvlm")
    return bool(written) and not before[-1:].isspace()


def _render_with_reply(processor: Any) -> str:
    """A conversation with a reply, rendered by the chat template; empty if the template rejects it."""
    try:
        whole: str = processor.apply_chat_template(
            [_turn("a"), _REPLY], tokenize=False, **_fixed_date_template(processor)
        )
    except Exception:  # templates raise almost anything
        return ""
    return whole


def _turn(prompt: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}


def adds_special_tokens(tokenizer: Any, rendered: str) -> bool:
    """False if the rendered prompt already has a beginning-of-sequence token, which must not come twice."""
    return not (tokenizer.bos_token and rendered.startswith(tokenizer.bos_token))


def prompt_ids(tokenizer: Any, rendered: str) -> list[int]:
    """The ids of a rendered prompt, equal to the processor's."""
    return _ids(tokenizer, rendered, adds_special_tokens(tokenizer, rendered))


def answer_ids(tokenizer: Any, rendered: str, answer: str) -> list[int]:
    """The ids of an answer that follows a rendered prompt, without end of sequence.

    Prompt and answer are tokenised together and the prompt's ids are cut off, so that the answer begins with
    the token that the model would generate there. If the two would share a token (after a prompt that ends in
    a space), the answer is tokenised on its own, so that the prompt's ids are the same as in generation.
    """
    if not answer.strip():
        return []
    glued = answer.strip() if rendered[-1:].isspace() else " " + answer.strip()
    before = prompt_ids(tokenizer, rendered)
    special = adds_special_tokens(tokenizer, rendered)
    together = _ids(tokenizer, rendered + glued, special)
    if together[: len(before)] == before:
        return together[len(before) :]
    return standalone_ids(tokenizer, answer)


def standalone_ids(tokenizer: Any, answer: str) -> list[int]:
    """The ids of an answer that is tokenised on its own.

    Mistral encodes prompt and answer separately: a tokenizer whose words begin with a space (`▁A`) begins the
    answer with such a token; a byte-level one (Tekken) does not.
    """
    if not answer.strip():
        return []
    return _ids(tokenizer, answer.strip(), False)


def _ids(tokenizer: Any, written: str, add_special_tokens: bool) -> list[int]:
    if written.strip():
        check_written(written, "text")
    with exclusive_tokenizer(tokenizer):
        ids: list[int] = tokenizer(written, add_special_tokens=add_special_tokens)["input_ids"]
    return ids


def reply(tokenizer: Any, new_ids: Tensor, eos_ids: Sequence[int]) -> tuple[str, Tensor]:
    """The text and ids of a generated reply, up to but excluding the end of sequence."""
    ids = new_ids.tolist()
    ends = [place for place, token in enumerate(ids) if token in eos_ids]
    ids = ids[: ends[0]] if ends else ids
    while ids and ids[-1] == tokenizer.pad_token_id:
        ids.pop()
    return tokenizer.decode(ids, skip_special_tokens=True).strip(), torch.tensor(ids, dtype=torch.long)


def as_written(backbone: Any, word: str) -> str:
    """A word as the model writes it: in lower case if its tokenizer has no capitals."""
    written = str(backbone.processor.tokenizer.decode(backbone.word_ids(word))).strip()
    return written if fold(written) == fold(word) else word


def check_prompt(processor: Any, prompt: str, accepted: set[str]) -> None:
    """Raise InputError if an instruction is not valid text or contains a special token of the model.

    Args:
        accepted: cache of accepted prompts, to which this one is added: training checks the same ones again.
    """
    known = f"{len(processor.tokenizer)} {prompt}"  # tokens may have been added since
    if known in accepted:
        return
    if not isinstance(prompt, str) or prompt.strip():
        check_written(prompt, "prompt")
    refuse_special(processor, prompt, "The prompt")
    if len(accepted) >= MANY_PROMPTS:
        accepted.clear()
    accepted.add(known)


def refuse_special(processor: Any, text: str, what: str) -> None:
    """Raise InputError if a user's text contains a special token, which the model would not read as words.

    Args:
        what: what the text is, to begin a sentence, such as `The prompt`.
    """
    if special := special_words(processor, text):
        raise InputError(
            f"{what} contains a special token: the model does not read it as text, or replies omit it.",
            got=f"{', '.join(special)} in {text[:80]!r}",
            expected="ordinary text",
            fix="leave it out or spell it differently; add a name of your own to the tokenizer as an "
            "ordinary token: tokenizer.add_tokens",
        )


MANY_PROMPTS = 2048
SHORTEST_SPECIAL = 3
"""In characters; shorter special tokens, such as `!` for padding, also occur in ordinary texts."""


def special_words(processor: Any, text: str) -> list[str]:
    """The special tokens of the model that a user's text contains; they would not be read as words."""
    # The processor replaces image markers in the text, even those that are not tokens.
    held = {word for word in _image_markers(processor) if word in text}
    for tokenizer in (processor.tokenizer, getattr(processor, "qformer_tokenizer", None)):
        if tokenizer is not None:
            added = getattr(tokenizer, "added_tokens_decoder", {})
            special = {token: str(word) for token, word in added.items() if word.special}
            special |= {tokenizer.convert_tokens_to_ids(word): word for word in tokenizer.all_special_tokens}
            found = special.keys() & _ids(tokenizer, text, False)
            # The unknown-word token also results from ordinary words that the tokenizer lacks.
            held |= {special[t] for t in found if t != tokenizer.unk_token_id or special[t] in text}
    return sorted(word for word in held if len(word) >= SHORTEST_SPECIAL)


def _image_markers(processor: Any) -> set[str]:
    """The image placeholder and the markers that a processor writes around and between parts of a picture."""
    words = {str(value) for name, value in vars(processor).items() if name.endswith(("_token", "_tag"))}
    return {*words, str(processor.image_token)}


def pad_id(tokenizer: Any, eos_ids: Sequence[int]) -> int:
    """The id for padding a batch. It is masked out, so any id is valid if the tokenizer has none."""
    pad = tokenizer.pad_token_id
    return int(pad if pad is not None else next(iter(eos_ids), 0))


def check_can_pad(tokenizer: Any, prompts: Sequence[str]) -> None:
    """Raise InputError if there are several prompts in a batch and the tokenizer has no padding token."""
    if len(prompts) > 1 and tokenizer.pad_token_id is None:
        raise InputError(
            "The tokenizer has no padding token, which a batch of images needs.",
            got="pad_token None",
            expected="any token",
            fix="set processor.tokenizer.pad_token, or pass one image at a time",
        )


def place_of(answer: str, word: str, rows: Sequence[object]) -> int | None:
    """Position of the word in the answer; None if it is not there but there are concept rows to use instead.

    Raises:
        InputError: the answer lacks the word and there are no rows.
    """
    place = find_word(answer, word)
    if place is None and not rows:
        raise InputError(
            f"The answer does not contain {word!r}: there is no attention to show.",
            got=repr(answer),
            expected=f"{word!r} in the answer, or concept rows",
            fix="pass an answer that contains it",
        )
    return place


def insert_after_last(ids: Sequence[int], mark: int, inserted: Sequence[int]) -> list[int]:
    """Insert ids right after the last `mark` in `ids`.

    >>> insert_after_last([1, 9, 9, 5], 9, [7, 7])
    [1, 9, 9, 7, 7, 5]
    """
    place = place_after_last(ids, mark)
    return [*ids[:place], *inserted, *ids[place:]]


def place_after_last(ids: Sequence[int], mark: int) -> int:
    """The index right after the last `mark` in `ids`.

    Raises:
        BackboneError: `ids` does not contain `mark`.
    """
    if mark not in ids:
        raise BackboneError(
            "The prompt contains no image placeholder.",
            got=f"{len(ids)} ids without {mark}",
            expected="the image's placeholders",
            fix="use a chat template that writes the image, or the family's own",
        )
    return len(ids) - list(reversed(ids)).index(mark)


def pad(sequences: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Pad sequences of different lengths to one `B × S` tensor of int64.

    >>> pad([[1], [2, 3]], 0, left=True).tolist()
    [[0, 1], [2, 3]]
    """
    longest = max((len(sequence) for sequence in sequences), default=0)
    rows = []
    for sequence in sequences:
        filler = [value] * (longest - len(sequence))
        rows.append([*filler, *sequence] if left else [*sequence, *filler])
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), longest)


def image_marker_ids(processor: Any) -> set[int]:
    """Ids of the image placeholder and of the markers around and between parts of a picture."""
    words = _image_markers(processor)
    numbers = [value for name, value in vars(processor).items() if name.endswith(("_token_id", "_ids"))]
    ids = [processor.tokenizer.convert_tokens_to_ids(word) for word in words]
    for value in numbers:
        ids.extend(value if isinstance(value, list) else [value])
    return {token for token in ids if isinstance(token, int)} - {processor.tokenizer.unk_token_id}


def template_ids(processor: Any, template: str | None) -> set[int]:
    """The ids of a rendered conversation, including the markers of turns; they must not get another meaning.

    They include a few ordinary words, those of a short instruction and a reply.
    """
    rendered = [render(processor, template, "a")]
    if template is None:
        rendered.append(_render_with_reply(processor))
    return {token for text in rendered for token in prompt_ids(processor.tokenizer, text)}


def sentinel_id(model: Any, tokenizer: Any, taken: set[int]) -> int:
    """An id of the embedding table that no text uses, as a placeholder for a concept row in a prompt.

    Preferably a spare row beyond the tokenizer's tokens; else a special token outside `taken`, reserved ones
    first and the unknown-word token last, since texts can contain it.

    Raises:
        BackboneError: every id is in use.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    # Ids can have gaps, so the largest id can exceed the number of tokens.
    beyond = max(len(tokenizer), max(tokenizer.get_vocab().values(), default=-1) + 1)
    for spare in range(beyond, rows):
        if spare not in taken:
            return spare
    added = getattr(tokenizer, "added_tokens_decoder", {})  # also reserved tokens, which have no role
    special = {*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}
    free = [token for token in special if token not in taken and token < rows]
    if free:
        return int(min(free, key=lambda token: _sentinel_preference(tokenizer, token)))
    raise BackboneError(
        "No token id is free for concept rows.",
        got=f"{len(tokenizer)} tokens, an embedding table of {rows} rows",
        expected="one row beyond the tokenizer's tokens, or one unused special token",
        fix="call model.resize_token_embeddings(len(tokenizer) + 1)",
    )


def _sentinel_preference(tokenizer: Any, token: int) -> tuple[bool, bool, int]:
    """Sort key for special tokens: reserved ones first, the unknown-word token last; otherwise by id."""
    reserved = bool(_RESERVED.search(tokenizer.convert_ids_to_tokens(token)))
    return token == tokenizer.unk_token_id, not reserved, token


@torch.no_grad()
def embeddings_of(model: Any, ids: Sequence[int]) -> Tensor:
    """`N × W` float32: the model's embeddings of these tokens, scaled to unit length."""
    return functional.normalize(weight_of(model.get_input_embeddings())[list(ids)].float(), dim=-1)
