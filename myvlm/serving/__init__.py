"""Concepts in other inference engines: inputs and checkpoints for stock vLLM, and an HTTP server."""
