"""A checkpoint for facenet-pytorch with random weights of the right shapes, and no network for another."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from facenet_pytorch import InceptionResnetV1
from facenet_pytorch.models import inception_resnet_v1

from myvlm.heads.faces.facenet import FacenetEncoder


def no_network(*_: object, **__: object) -> None:
    raise URLError("no network")


def random_facenet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write it where facenet-pytorch looks for its weights."""
    (home / "checkpoints").mkdir()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = InceptionResnetV1()
        network.logits = torch.nn.Linear(512, 8631)
    torch.save(network.state_dict(), home / "checkpoints" / FacenetEncoder.weights_file)
    monkeypatch.setenv("TORCH_HOME", str(home))
    monkeypatch.setattr(inception_resnet_v1, "download_url_to_file", no_network)
