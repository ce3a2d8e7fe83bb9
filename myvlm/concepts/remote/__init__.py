"""Concepts at remote addresses: on the Hugging Face hub, in S3, and wherever fsspec reaches."""
