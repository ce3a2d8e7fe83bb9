"""What `benchmarks/serving.py` does to `myvlm serve`: load, owners, more than it can take, and malice."""
