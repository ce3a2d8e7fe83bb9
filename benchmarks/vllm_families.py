"""Check which model classes of stock vLLM can use concepts, by comparing their replies with transformers'.

    PYTHONPATH=. python benchmarks/vllm_families.py make FOLDER    # here
    python benchmarks/vllm_families.py run FOLDER [--at-once 8]    # where vLLM is; no myvlm is needed there

Concepts enter as embeddings of the picture or of the whole prompt. `make` writes tiny random models, and
those of tinyworld, and for each of them six pictures with zero, one and four rows, with the greedy replies of
transformers. `run` gives all of them at once to `vllm.LLM` with the family's engine options. `vllm_families`
counts the classes whose replies all have the same tokens as ours, `vllm_same` the equal replies of each
class; replies that differ are printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TOKENS = 12
ROWS = (0, 1, 4)
HEAD = 32
"""Dimensions of an attention head that vLLM's CPU attention supports."""
WIDE: dict[str, Any] = {
    "hidden_size": 4 * HEAD,
    "intermediate_size": 256,
    "attention_dropout": 0.0,
    "max_position_embeddings": 2048,  # Mistral 3's template begins with a long text
}
"""Settings that make replies of both libraries comparable: no dropout, and a supported head size."""
EYES: dict[str, Any] = {"hidden_size": 3 * HEAD, "attention_dropout": 0.0}


def main() -> None:
    """Run the benchmark; see the module's docstring."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("what", choices=["make", "run"])
    options.add_argument("folder", type=Path)
    options.add_argument("--only", action="append", help="a family; repeat the option for more")
    options.add_argument("--at-once", type=int, default=8, help="requests")
    chosen = options.parse_args()
    if chosen.what == "make":
        make(chosen.folder, chosen.only)
    else:
        print(json.dumps(run(chosen.folder, chosen.only, chosen.at_once)))


def make(folder: Path, only: list[str] | None) -> None:
    """Write models, inputs and replies of the families in `only`, or of all."""
    from myvlm import MyVLM
    from tests.support import tiny_families, tiny_types

    for text, eyes in (
        (tiny_families.TEXT, tiny_families.VISION),
        (tiny_types.SMALL_TEXT, tiny_types.SMALL_VISION),
    ):
        text.update(WIDE)
        eyes.update(EYES)
    tiny_types.SMALL_TEXT["head_dim"] = HEAD
    built: dict[str, Callable[[], Any]] = {
        **{name: lambda name=name: f"tinyworld/{name}" for name in ("llava", "blip2")},
        "llava_next": lambda: tiny_families.llava_next("vicuna"),
        "llava_onevision": tiny_families.llava_onevision,
        "internvl": tiny_families.internvl,
        "idefics3": lambda: tiny_families.idefics3("Idefics3"),
        "smolvlm": lambda: tiny_families.idefics3("SmolVLM"),
        "mistral3": tiny_families.mistral3,
        "qwen2_vl": lambda: tiny_families.qwen("Qwen2VL"),
        "qwen2_5_vl": lambda: tiny_families.qwen("Qwen2_5_VL"),
        "qwen3_vl": lambda: tiny_families.qwen("Qwen3VL"),
        **{
            kind: lambda kind=kind: tiny_families.by_recipe(kind)
            for kind in ("llava_next_video", "aya_vision", "aria")
        },
    }
    for name in only or built:
        own = built[name]()
        vlm = MyVLM.from_pretrained(own, device="cpu") if isinstance(own, str) else MyVLM(*own, name=name)
        _write(folder / name, vlm)


def _write(folder: Path, vlm: Any) -> None:
    from myvlm.backbones import ConceptRows
    from myvlm.serving.checkpoint import write_for_vllm
    from myvlm.serving.entering import engine_inputs
    from myvlm.serving.vllm import engine_options
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
        [entry] = engine_inputs(backbone, [picture], [prompt], [rows])
        unsaid = getattr(backbone.prompter, "sentinel_id", None) if rows else None
        ids = said.token_ids.tolist()
        inputs.append({"given": entry.offline(), "ids": ids, "unsaid": unsaid})
    torch.save(inputs, folder / "inputs.pt")
    room = backbone.model.config.get_text_config().max_position_embeddings
    engine = {**engine_options(vlm), "max_model_len": room}
    (folder / "engine.json").write_text(json.dumps(engine), encoding="utf-8")
    print(folder.name, type(entry).__name__, tuple(entry.embeddings.shape))


def run(folder: Path, only: list[str] | None, at_once: int) -> dict[str, Any]:
    """Compare vLLM's replies, family by family."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # one engine after the other, in this process
    same: dict[str, str] = {}
    whole = 0
    for own in sorted(one for one in folder.iterdir() if (one / "inputs.pt").exists()):
        if not only or own.name in only:
            right, asked = _run(own, at_once)
            same[own.name] = f"{right} of {asked}"
            whole += right == asked
            print(own.name, same[own.name], flush=True)
    return {"vllm_families": whole, "vllm_same": same, "at_once": at_once}


def _run(folder: Path, at_once: int) -> tuple[int, int]:
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    inputs = torch.load(folder / "inputs.pt", weights_only=True)
    engine = {"max_num_seqs": at_once, **json.loads((folder / "engine.json").read_text(encoding="utf-8"))}
    llm = LLM(str(folder), dtype="float32", enforce_eager=True, **engine)
    bias = [{one["unsaid"]: -100.0} if one["unsaid"] is not None else None for one in inputs]
    sampling = [SamplingParams(temperature=0, max_tokens=TOKENS, logit_bias=one) for one in bias]
    said = llm.generate([one["given"] for one in inputs], sampling, use_tqdm=False)
    right = 0
    for one, reply in zip(inputs, said, strict=True):
        ids = list(reply.outputs[0].token_ids)
        right += ids[: len(one["ids"])] == one["ids"]
        if ids[: len(one["ids"])] != one["ids"]:
            print(f"{folder.name}\n  here:  {one['ids']}\n  there: {ids}")
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return right, len(inputs)


if __name__ == "__main__":
    main()
