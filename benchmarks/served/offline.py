"""Measure the CPU seconds of vLLM itself; runs in vLLM's environment, started by `throughput.offline`.

    python offline.py FOLDER ROUNDS TOKENS

`FOLDER/engine.json` holds options of `vllm.LLM`, `FOLDER/inputs.pt` the inputs of each variant. A round
passes all pictures of one variant at once, then those of the next, in reverse order in every second round; a
first round warms up. The last line is JSON: each variant's seconds per round, and its tokens, prompts and
replies. Everything runs in one process with one thread. Its CPU seconds equal wall time on an idle machine
and are steadier on a busy one.
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
    """Run the benchmark described in the module's docstring."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    given: dict[str, list[Any]] = torch.load(folder / "inputs.pt", weights_only=True)
    options = json.loads((folder / "engine.json").read_text(encoding="utf-8"))
    # The same prompts come again in every round and must be computed again.
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
    """Number of tokens of a prompt, which may be embeddings, and of its reply."""
    prompt = asked.get("prompt_embeds")
    read = len(said.prompt_token_ids) if prompt is None else len(prompt)
    return read + len(said.outputs[0].token_ids)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
