"""Training of the projector and the LoRA of `tinyworld/smollm2`."""
