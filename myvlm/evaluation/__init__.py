"""Measure how good concepts are: data, protocol, metrics, ablations and a report; and the kits of others.

Imports `myvlm.api` and below; the command `myvlm evaluate` is a thin skin over it.
"""
