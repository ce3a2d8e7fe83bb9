"""Load, many owners, overload and hostile requests for `myvlm serve`; used by `benchmarks/serving.py`."""
