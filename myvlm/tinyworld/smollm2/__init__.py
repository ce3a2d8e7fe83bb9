"""`tinyworld/smollm2`: the world's pictures before a language model that somebody else trained."""
