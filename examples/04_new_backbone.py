"""Teach MyVLM a model family that it does not know, from a package of your own: here VipLLaVA.

The class below is all that a family needs. A package makes it known with two lines in its `pyproject.toml`:

    [project.entry-points."myvlm.backbones"]
    vipllava = "my_package:VipLlavaBackbone"

The model is a small one with random weights, so that the example runs offline on a CPU in a minute; with
`llava-hf/vip-llava-7b-hf` nothing else changes. What the checks promise is in `myvlm.testing`.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

from benchmarks.pretrain.models import build_llava_processor
from myvlm import MyVLM
from myvlm.backbones.causal.backbone import CausalBackbone
from myvlm.errors import UnknownBackboneError
from myvlm.testing import check_backbone
from myvlm.tinyworld import sample_picture


class VipLlavaBackbone(CausalBackbone):
    """Where parts are, if not where LLaVA has them; how to prompt; which visual tokens form a picture."""

    family = "vipllava"
    model_types = ("vipllava",)
    template = "###Human: {image}\n{prompt}###Assistant:"

    def grid(self, features):
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        return 0, side, side  # the first token, the height, the width


processor = build_llava_processor()
size = processor.image_processor.crop_size["height"]
width = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
config = VipLlavaConfig(
    vision_config=CLIPVisionConfig(**width, image_size=size, patch_size=processor.patch_size),
    text_config=LlamaConfig(**width, vocab_size=320, bos_token_id=1, eos_token_id=2, pad_token_id=0),
    image_token_index=processor.image_token_id,
    vision_feature_layers=[-1, -2],
)
torch.manual_seed(0)
model = VipLlavaForConditionalGeneration(config).eval()
model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0

try:
    MyVLM(model, processor)
except UnknownBackboneError as error:
    print("before:", str(error).splitlines()[0])

with tempfile.TemporaryDirectory() as folder:  # what `pip install` writes for a package with those two lines
    info = Path(folder) / "vipllava_for_myvlm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vipllava-for-myvlm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[myvlm.backbones]\nvipllava = __main__:VipLlavaBackbone\n")
    sys.path.append(folder)
    vlm = MyVLM(model, processor)
    sys.path.remove(folder)
print("after: ", vlm.backbone.family, "is", type(vlm.backbone).__name__)

for outcome in check_backbone(vlm.backbone, [sample_picture(seed) for seed in range(3)], identifier="ulmo"):
    print(f"{outcome.check:40}", "passed" if outcome.passed else f"skipped: {outcome.skipped}")
