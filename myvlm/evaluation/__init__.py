"""Measure the quality of concepts: data sets, protocol, methods, metrics, ablations and a report."""
