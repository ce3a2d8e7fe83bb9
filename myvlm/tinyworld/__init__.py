"""An embedded world: rendered scenes that know their truth, and small trained models that speak of them.

For demonstration, tests and measurement without a network; it makes no claim about photographs.
"""

from myvlm.tinyworld.fewshot import FewShot, few_shot, sample_picture

__all__ = ["FewShot", "few_shot", "sample_picture"]
