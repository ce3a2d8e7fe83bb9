"""`tinyworld/smollm2`: tinyworld's vision tower with SmolLM2, a language model pretrained by others."""
