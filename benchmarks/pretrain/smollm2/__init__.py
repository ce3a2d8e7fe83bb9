"""How the projector and the LoRA of `tinyworld/smollm2` are made."""
