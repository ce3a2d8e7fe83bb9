"""The OpenAI-compatible server of a frozen model and many users' concepts: `myvlm serve`, extra `[serve]`."""
