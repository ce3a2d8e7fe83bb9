"""Batched detection, and the engines that generate replies: transformers in process, or a vLLM server."""
