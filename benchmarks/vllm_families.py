"""Which classes of stock vLLM take a concept as more image embeddings: small models, its words and ours.

    PYTHONPATH=. python benchmarks/vllm_families.py make FOLDER    # here
    python benchmarks/vllm_families.py run FOLDER [--at-once 8]    # where vLLM is; no myvlm is needed there

`make` writes tiny random models, and those of tinyworld, and for each six pictures with no rows, one and
four, with what transformers says of them, greedy. `run` gives them to `vllm.LLM` under the engine options of
the family. `vllm_families` counts the classes that took them, `vllm_same` the replies that are ours token by
token; others are printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOKENS = 12
ROWS = (0, 1, 4)
WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}
"""vLLM's attention on a CPU wants heads of 32 numbers."""


def main() -> None:
    """See the module."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("what", choices=["make", "run"])
    options.add_argument("folder", type=Path)
    options.add_argument("--only", help="one family")
    options.add_argument("--at-once", type=int, default=8, help="requests, where the family takes several")
    chosen = options.parse_args()
    if chosen.what == "make":
        make(chosen.folder)
    else:
        print(json.dumps(run(chosen.folder, chosen.only, chosen.at_once)))


def make(folder: Path) -> None:
    """Write models, inputs and replies of all families."""
    from myvlm import MyVLM
    from tests.support import tiny_families

    # A reply is compared to that of the other library: no dropout, and heads that both know.
    tiny_families.TEXT.update({**WIDE, "attention_dropout": 0.0})
    tiny_families.VISION.update({"hidden_size": 64, "attention_dropout": 0.0})
    built: dict[str, Callable[[], tuple[Any, Any]]] = {
        "llava_next": lambda: tiny_families.llava_next("vicuna"),
        "llava_onevision": tiny_families.llava_onevision,
        "internvl": tiny_families.internvl,
    }
    for name in ("tinyworld/llava", "tinyworld/blip2"):
        _write(folder / name.rpartition("/")[2], MyVLM.from_pretrained(name, device="cpu"))
    for name, build in built.items():
        _write(folder / name, MyVLM(*build(), name=name))


def _write(folder: Path, vlm: Any) -> None:
    from myvlm.backbones import ConceptRows
    from myvlm.serving.checkpoint import write_for_vllm
    from myvlm.serving.vllm import embeddings_of, engine_options
    from tests.support.tiny import pictures

    backbone = vlm.backbone
    write_for_vllm(backbone.model, backbone.processor, folder)
    draw = torch.Generator().manual_seed(0)
    inputs = []
    for number, picture in enumerate(pictures(6)):
        count = ROWS[number % len(ROWS)]
        rows = [ConceptRows(torch.randn(count, backbone.dim, generator=draw))] if count else []
        prompt = backbone.caption_prompt
        [said] = backbone.generate([picture], [prompt], [rows], max_new_tokens=TOKENS)
        [embeddings] = embeddings_of(backbone, [picture], [rows])
        unsaid = getattr(backbone.prompter, "sentinel_id", None) if rows else None
        rendered = backbone.prompter.render(prompt)
        ids = said.token_ids.tolist()
        inputs.append({"prompt": rendered, "embeddings": embeddings.clone(), "ids": ids, "unsaid": unsaid})
    torch.save(inputs, folder / "inputs.pt")
    (folder / "engine.json").write_text(json.dumps(engine_options(vlm)), encoding="utf-8")
    print(folder.name, [tuple(one["embeddings"].shape) for one in inputs])


def run(folder: Path, only: str | None, at_once: int) -> dict[str, Any]:
    """What vLLM says, family by family."""
    same: dict[str, str] = {}
    for own in sorted(one for one in folder.iterdir() if (one / "inputs.pt").exists()):
        if only in (None, own.name):
            same[own.name] = _run(own, at_once)
            print(own.name, same[own.name], flush=True)
    return {"vllm_families": len(same), "vllm_same": same}


def _run(folder: Path, at_once: int) -> str:
    from vllm import LLM, SamplingParams

    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    engine = {"max_num_seqs": at_once, **json.loads((folder / "engine.json").read_text(encoding="utf-8"))}
    llm = LLM(str(folder), dtype="float32", enforce_eager=True, max_model_len=384, **engine)
    bias = [{one["unsaid"]: -100.0} if one["unsaid"] is not None else None for one in inputs]
    sampling = [SamplingParams(temperature=0, max_tokens=TOKENS, logit_bias=one) for one in bias]
    asked = [{"prompt": one["prompt"], "multi_modal_data": {"image": one["embeddings"]}} for one in inputs]
    said = llm.generate(asked, sampling, use_tqdm=False)
    right = 0
    for one, reply in zip(inputs, said, strict=True):
        ids = list(reply.outputs[0].token_ids)
        right += ids[: len(one["ids"])] == one["ids"]
        if ids[: len(one["ids"])] != one["ids"]:
            print(f"{folder.name}\n  here:  {one['ids']}\n  there: {ids}")
    return f"{right} of {len(inputs)}"


if __name__ == "__main__":
    main()
