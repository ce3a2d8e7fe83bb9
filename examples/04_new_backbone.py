"""Add a new model family to MyVLM from your own package: here Aya Vision.

The class below is all that a family needs. A package registers it by two lines in its `pyproject.toml`:

    [project.entry-points."myvlm.backbones"]
    aya_vision = "my_package:AyaVisionBackbone"

The model is small and has random weights, so the example runs offline on a CPU in a minute. The class is the
same for `CohereLabs/aya-vision-8b`. `myvlm.testing` describes what the checks verify.
"""

import math
import sys
import tempfile
from pathlib import Path

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    GotOcr2ImageProcessor,
    SiglipVisionConfig,
)

from benchmarks.pretrain.models import build_tokenizer
from myvlm import MyVLM
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.errors import BackboneError
from myvlm.testing import check_backbone
from myvlm.tinyworld import sample_picture


class AyaVisionBackbone(CausalBackbone):
    """The picture comes as tiles and then as a whole; attention maps use the tokens of the whole."""

    family = "aya_vision"
    model_types = ("aya_vision",)
    template = "<|USER_TOKEN|>{image}{prompt}<|CHATBOT_TOKEN|>"  # used if the processor has no chat template

    def grid(self, features):
        side = math.isqrt(features.layout.text.split("TILE_GLOBAL")[-1].count("<|IMG_PATCH|>"))
        return len(features) - side * side, side, side  # first token, height, width


tokenizer = build_tokenizer()
marks = ["<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE_GLOBAL", "TILE_1", "TILE_2"]
tokenizer.add_special_tokens({"additional_special_tokens": marks})
tiles = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=2)
processor = AyaVisionProcessor(tiles, tokenizer, patch_size=4, downsample_factor=2, img_size=32)
width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
config = AyaVisionConfig(
    vision_config=SiglipVisionConfig(**width, image_size=32, patch_size=4, vision_use_head=False),
    text_config=Cohere2Config(**width, **ends, num_key_value_heads=2, vocab_size=len(tokenizer) + 1),
    image_token_index=processor.image_token_id,
)
torch.manual_seed(0)
model = AyaVisionForConditionalGeneration(config).eval()
model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0

try:
    MyVLM(model, processor)
except BackboneError as error:  # the general adapter needs a chat template
    print("before:", str(error).splitlines()[0])

with tempfile.TemporaryDirectory() as folder:  # the files that `pip install` writes for such a package
    info = Path(folder) / "aya_for_myvlm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: aya-for-myvlm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[myvlm.backbones]\naya_vision = __main__:AyaVisionBackbone\n")
    sys.path.append(folder)
    vlm = MyVLM(model, processor)
    sys.path.remove(folder)
print("after: ", vlm.backbone.family, "is", type(vlm.backbone).__name__)

for outcome in check_backbone(vlm.backbone, [sample_picture(seed) for seed in range(3)], identifier="ulmo"):
    print(f"{outcome.check:40}", "passed" if outcome.passed else f"skipped: {outcome.skipped}")
