"""The scenes of tinyworld with their ground truth, and how they are drawn."""
