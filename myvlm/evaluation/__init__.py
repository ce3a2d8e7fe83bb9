"""Measure how good concepts are: data, protocol, metrics, ablations and a report.

Imports `myvlm.api` and below; the command `myvlm evaluate` is a thin skin over it.
"""
