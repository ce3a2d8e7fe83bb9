"""Concepts beyond this process: what stock inference servers are given so that they name them."""
