"""An embedded toy world: rendered scenes with known ground truth, and small models trained on them.

For demonstrations, tests and measurements without a network; it makes no claim about photographs.
"""

from myvlm.tinyworld.fewshot import FewShot, few_shot, sample_picture

__all__ = ["FewShot", "few_shot", "sample_picture"]
