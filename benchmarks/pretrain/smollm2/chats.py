"""SmolLM2's own replies: to instructions without a picture, and about pictures described to it in words.

Training a chat model on pictures mixes in conversations, so that it keeps its abilities
(https://arxiv.org/abs/2304.08485, §4: a language model wrote the replies from captions). Here the frozen
language model is the teacher of the trained one: it learns nothing here that the frozen model did not say.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.pretrain.smollm2.packing import Text
from benchmarks.pretrain.smollm2.texts import facts
from myvlm.tinyworld.language import IDENTIFIERS, KNOWN_NAMES
from myvlm.tinyworld.smollm2.parts import CHAT_TEMPLATE
from myvlm.tinyworld.world.scenes import random_scene

TOPICS = (
    "rivers", "bread", "the moon", "trains", "bees", "winter", "music", "football", "gardens", "computers",
    "mountains", "tea", "volcanoes", "painting", "school", "the ocean", "glass", "honey", "libraries", "rain",
    "airports", "chess", "spices", "bridges", "dreams", "wheat", "clocks", "islands", "museums", "sleep",
    "bicycles", "salt", "forests", "languages", "markets", "gold", "history", "friendship", "planets",
    "paper",
)  # fmt: skip
FORMS = (
    "Write one sentence about {0}.", "What are {0}?", "Tell me a fact about {0}.",
    "Why do people care about {0}?", "Compare {0} and {1}.", "Write a question about {0}.",
    "Give me two ideas for a talk about {0}.", "Is there a link between {0} and {1}?",
    "Write a headline about {0}.", "What would you ask an expert on {0}?",
    "List three words that have to do with {0}.", "Explain {0} to a child in one sentence.",
)  # fmt: skip
PEOPLE = (
    "Maria's uncle", "Our neighbour", "Mr. Brown", "Daniel", "The baker", "Alice", "My sister",
    "Professor Lee", "Peter", "Mrs. Okafor", "The pilot", "Carlos",
)  # fmt: skip
DEEDS = (
    "bought four apples", "missed the last bus", "repaired an old radio", "found a letter", "won the race",
    "baked a cake", "painted the fence", "lost an umbrella", "read a long book", "planted a tree",
)  # fmt: skip
PLACES = (
    "at the station", "in Paris", "before breakfast", "on Tuesday", "near the school", "in the rain",
    "after work", "at the market", "in June", "by the lake",
)  # fmt: skip
TASKS = (
    "Repeat this sentence: {}", "Who is this about? {}", "What happened? {}", "Say it in other words: {}",
    "Write the next sentence: {}", "{} When or where was that?", "Turn this into a question: {}",
)  # fmt: skip
TALK = (
    "What might happen next?", "How does this picture make you feel?", "Suggest a title for this picture.",
    "Explain to a child what is shown.", "Write a message to a friend about this picture.",
    "What would you like to know about this picture?", "What could one do there?",
    "Write one line of a poem about it.", "Why might somebody keep this picture?",
    "What does one hear there?", "Is this a good picture for a postcard?", "What is unusual about it?",
)  # fmt: skip
LONGEST = 32
"""Maximum number of tokens of a reply."""


def draw_prompt(random: Random) -> str:
    """An instruction that does not concern a picture.

    >>> draw_prompt(Random(0)) != draw_prompt(Random(1))
    True
    """
    if random.random() < 0.5:
        return random.choice(FORMS).format(*random.sample(TOPICS, 2))
    sentence = f"{random.choice(PEOPLE)} {random.choice(DEEDS)} {random.choice(PLACES)}."
    return random.choice(TASKS).format(sentence)


def draw_chats(seed: int, count: int) -> list[Text]:
    """`count` instructions without a picture, not answered yet."""
    random = Random(f"chats {seed}")
    return [Text(draw_prompt(random), "", teacher=1.0, sees=False) for _ in range(count)]


def draw_talks(seed: int, count: int, twins: float) -> list[Text]:
    """`count` instructions about the pictures of `talk_scene`, not answered yet."""
    random = Random(f"talks {seed}")
    return [
        Text(random.choice(TALK), "", facts=facts(talk_scene(seed, i, twins), random), teacher=1.0)
        for i in range(count)
    ]


def talk_scene(seed: int, number: int, twins: float) -> Any:
    return random_scene(Random(f"talk {seed} {number}"), twins=twins)


@torch.no_grad()
def replies(
    model: Any, tokenizer: Any, texts: Sequence[Text], *, seed: int = 0, at_once: int = 48
) -> list[str]:
    """The language model's replies to text alone, sampled at temperature 0.8."""
    torch.manual_seed(seed)
    fast = deepcopy(model).bfloat16()
    tokenizer.padding_side = "left"
    said: list[str] = []
    for start in range(0, len(texts), at_once):
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text.in_words().prompt}], chat_template=CHAT_TEMPLATE,
                tokenize=False, add_generation_prompt=True,
            )
            for text in texts[start : start + at_once]
        ]  # fmt: skip
        asked = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        given = fast.generate(
            **asked.to(fast.device), max_new_tokens=LONGEST, do_sample=True, temperature=0.8, top_p=0.95
        )
        answers = given[:, asked.input_ids.shape[1] :]
        said += tokenizer.batch_decode(answers, skip_special_tokens=True)
        print(f"{len(said)} replies", flush=True)
    return [one.strip() for one in said]


def answered(file: Path, model: Any, tokenizer: Any, texts: Sequence[Text], *, seed: int) -> list[Text]:
    """The texts with the language model's replies, cached in `file`; texts with a name of tinyworld are
    dropped."""
    if not file.exists():
        own = replies(model, tokenizer, texts, seed=seed)
        full = [asdict(text) | {"answer": said} for text, said in zip(texts, own, strict=True)]
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(full, indent=1))
        partial.replace(file)
    kept = [Text(**one) for one in json.loads(file.read_text())]
    return [text if tellable(text) else replace(text, answer="") for text in kept]


def tellable(text: Text) -> bool:
    """Whether the text contains no word that may be the name of a concept.

    >>> tellable(Text("Who is it?", "It is Emma.")), tellable(Text("Who is it?", "The baker."))
    (False, True)
    """
    names = {*IDENTIFIERS, *(name for own in KNOWN_NAMES.values() for name in own)}
    told = f"{text.facts} {text.prompt} {text.answer}".lower()
    words = {word.strip(".,?!:;\"'()*").removesuffix("'s") for word in told.split()}
    return bool(text.answer) and not words & names
