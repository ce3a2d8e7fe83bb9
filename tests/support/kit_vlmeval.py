"""Run VLMEvalKit's own inference on the tiny task, plain and personalized; the last line is JSON.

See `test_kits.py`. The kit looks for data in the folder that `LMUData` names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas
from vlmeval.dataset import build_dataset
from vlmeval.inference import infer_data_job
from vlmeval.smp import LMUDataRoot, encode_image_to_base64, load

from myvlm.integrations.vlmeval import register
from tests.support.kit_task import documents


def main(concepts: str, work: Path) -> None:
    options = {"concepts": concepts, "device": "cpu", "generation": {"max_new_tokens": 24}}
    register("plain", "tinyworld/llava", plain=True, **options)
    register("personalized", "tinyworld/llava", **options)
    found: dict[str, list[str]] = {}
    for name, seen in (("seen", True), ("unseen", False)):
        rows = [
            {**doc, "index": index, "image": encode_image_to_base64(doc["image"])}
            for index, doc in enumerate(documents(seen))
        ]
        data = Path(LMUDataRoot()) / f"{name}.tsv"
        pandas.DataFrame(rows).to_csv(data, sep="\t", index=False)
        for model in ("plain", "personalized"):
            dataset = build_dataset(name)
            infer_data_job(model, work_dir=str(work), model_name=model, dataset=dataset)
            found[f"{model} {name}"] = list(load(str(work / f"{model}_{name}.xlsx"))["prediction"])
    print(json.dumps(found))  # noqa: T201


main(sys.argv[1], Path(sys.argv[2]))
