"""Concepts elsewhere: on the Hugging Face hub, in S3, at any address that fsspec knows."""
