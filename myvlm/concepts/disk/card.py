"""The card of a concept: a README that describes its content, how it was learned and how to load it."""

from __future__ import annotations

import json
from typing import Any

from myvlm.concepts.disk.record import ConceptRecord, EmbeddingRecord
from myvlm.plugins.model_collections import is_collected


def card(record: ConceptRecord, privacy: str, *, photos: bool, url: str | None = None) -> str:
    """Return the card as Markdown.

    Args:
        record: the content of `concept.json`.
        privacy: the head's own sentence on what its stored numbers may reveal.
        photos: whether the folder also holds photos.
        url: the remote address it is published at; None for a local folder.
    """
    meta = record.head.meta
    rows = "\n".join(_row(name, one) for name, one in record.embeddings.items()) or "| none yet | | | |"
    figures = "\n".join(f"- {name}: {value}" for name, value in meta.figures.items()) or "- none"
    renamed = f" (models use `{record.spoken}`)" if record.spoken != record.identifier else ""
    words = record.recipe.get("description")
    called = f" Its description for other models: {words}." if words else ""
    kept = (
        "The folder contains photos, because you requested it. Share it only as you would share them."
        if photos
        else "The folder contains no photos, unless you add some."
    )
    place = url or "path/to/this/folder"
    erased = (
        "Anyone who may write here can delete it. The hub keeps old commits until the repository is deleted."
        if url and url.startswith("hf://")
        else "Anyone who may write here can delete it."
        if url
        else "Nothing is uploaded unless you save it to an address. "
        f'`vlm.concepts.remove("{record.identifier}", erase=True)` deletes this folder.'
    )
    return f"""{_metadata(record) if url else ""}# {record.identifier}

A concept for [MyVLM](https://arxiv.org/abs/2403.14599): one {record.category} that a frozen vision-language
model can recognize and name. Identifier `{record.identifier}`{renamed}, category `{record.category}`, kind
`{record.kind}`.{called}

## Load it

```python
from myvlm import MyVLM

vlm = MyVLM.from_pretrained("{next(iter(record.embeddings), "tinyworld/llava")}")
vlm.concepts.add("{place}")
print(vlm.caption("photo.jpg"))
```

## What it was learned for

| backbone | rows, dim | norm | weights |
|---|---|---|---|
{rows}

{_captions(record)}## How it is recognized

Image encoder `{meta.encoder}`, threshold {meta.threshold:.4g}. Measured during learning:

{figures}

{_corrections(record)}## Privacy

{privacy} {kept} The recipe in `concept.json` contains the captions and prompts it was learned from.
{erased}
"""


def _metadata(record: ConceptRecord) -> str:
    """Return the YAML front matter that the hub reads; its strings are JSON strings, which YAML allows."""
    bases = [name.split("@")[0] for name in record.embeddings]
    # models on the hub only: those of a registered model collection have no page there
    known = [name for name in dict.fromkeys(bases) if name.count("/") == 1 and not is_collected(name)]
    lines = [f"base_model: {json.dumps(known)}"] if known else []
    tags = json.dumps(["myvlm", "concept", record.category], ensure_ascii=False)
    return "\n".join(["---", "library_name: myvlm", f"tags: {tags}", *lines, "---", "", ""])


def _captions(record: ConceptRecord) -> str:
    """List captions that the model generated, so that nobody takes them for a person's; else return ""."""
    if record.recipe.get("captions_by") != "model":
        return ""
    by_photo: Any = record.recipe["captions"]
    lines = "\n".join(f"- {text}" for own in by_photo for text in own)
    return f"""## Captions

It was learned from captions that the model generated, with the name inserted. Nobody reviewed them:

{lines}

"""


def _corrections(record: ConceptRecord) -> str:
    """List the pictures by which the user corrected the concept; return "" if there are none."""
    if record.examples is None or not record.examples.meta.corrections:
        return ""
    lines = "\n".join(f"- {one.summary}" for one in record.examples.meta.corrections)
    return f"""## Corrections

The owner stated whether these pictures show it. The folder keeps their features, not the pictures:

{lines}

"""


def _row(name: str, one: EmbeddingRecord) -> str:
    return f"| {name} | {one.rows}, {one.dim} | {one.norm} | `{one.fingerprint[:12]}` |"
