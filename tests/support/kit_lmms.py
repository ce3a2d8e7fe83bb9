"""Run lmms-eval itself on the tiny task, plain and personalized; the last line is JSON.

See `test_kits.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import MODEL_REGISTRY_V2

from myvlm.integrations.lmms_eval import manifest
from tests.support.kit_task import documents


def task(name: str, folder: Path) -> ConfigurableTask:
    config = {
        "task": name,
        "dataset_path": str(folder),
        "dataset_kwargs": {"load_from_disk": True},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_visual": lambda doc: [doc["image"].convert("RGB")],
        "doc_to_text": lambda doc: doc["question"],
        "doc_to_target": "answer",
        "process_results": lambda doc, said: {"said": float(doc["answer"] in said[0])},
        "metric_list": [{"metric": "said", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"max_new_tokens": 24, "temperature": 0, "until": ["\n\n"]},
    }
    return ConfigurableTask(config=config)


def main(concepts: str, work: Path) -> None:
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    found: dict[str, Any] = {}
    for name, seen in (("seen", True), ("unseen", False)):
        DatasetDict({"test": Dataset.from_list(documents(seen))}).save_to_disk(str(work / name))
        for model, plain in (("plain", True), ("personalized", False)):
            result = simple_evaluate(
                model="myvlm",
                model_args=f"pretrained=tinyworld/llava,concepts={concepts},plain={plain}",
                tasks=[task(name, work / name)],
                batch_size=2,
                device="cpu",
                bootstrap_iters=0,
            )
            found[f"{model} {name}"] = {
                "score": result["results"][name]["said,none"],
                "said": [sample["filtered_resps"] for sample in result["samples"][name]],
            }
    print(json.dumps(found))  # noqa: T201


main(sys.argv[1], Path(sys.argv[2]))
