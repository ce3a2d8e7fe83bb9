"""Measure how good concepts are: data, protocol, metrics, ablations and a report; and the kits of others."""
