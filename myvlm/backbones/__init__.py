"""Frozen vision-language models and how a concept enters each family. Importing this loads no model."""

from myvlm.backbones.base import Backbone, ConceptRows, Generation, Loss, NormRule
from myvlm.backbones.registry import backbone_for, known_backbones, register_backbone

__all__ = [
    "Backbone",
    "ConceptRows",
    "Generation",
    "Loss",
    "NormRule",
    "backbone_for",
    "known_backbones",
    "register_backbone",
]
