"""An OpenAI-style server of a frozen model and its owners' concepts: `myvlm serve`, the extra `[serve]`."""
