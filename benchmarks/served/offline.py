"""Seconds on a core that vLLM itself takes; runs where vLLM is, as `throughput.offline` starts it.

    python offline.py FOLDER ROUNDS TOKENS

`FOLDER/engine.json` holds options of `vllm.LLM`, and `FOLDER/inputs.pt` what it is given, by way. Each round
gives it all pictures of a way at once, way after way, in the other order in every second round; one before
them warms up. The last line is JSON: a way's seconds round by round, and its tokens, prompts and replies.
All is one process of one thread: its own seconds are a clock's on an idle machine, and steadier on others.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main(folder: Path, rounds: int, tokens: int) -> None:
    """See the module."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    given: dict[str, list[Any]] = torch.load(folder / "inputs.pt", weights_only=True)
    options = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    # The same prompts come again in every round: they are to be read again.
    llm = LLM(dtype="float32", enforce_eager=True, enable_prefix_caching=False, **options)
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    figures: dict[str, dict[str, Any]] = {way: {"seconds": []} for way in given}
    for number in range(rounds + 1):
        for way in list(given) if number % 2 else reversed(given):
            began = time.process_time()
            said = llm.generate(given[way], sampling, use_tqdm=False)
            figures[way]["seconds"].append(time.process_time() - began)
            read = [length(*one) for one in zip(given[way], said, strict=True)]
            figures[way]["tokens"] = sum(read)
    for own in figures.values():
        del own["seconds"][0]
    print(json.dumps(figures))


def length(asked: dict[str, Any], said: Any) -> int:
    """Tokens of a prompt, which may be embeddings, and of the reply to it."""
    prompt = asked.get("prompt_embeds")
    read = len(said.prompt_token_ids) if prompt is None else len(prompt)
    return read + len(said.outputs[0].token_ids)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
