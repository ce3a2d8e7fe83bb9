"""Concept folders on disk: their schema, and reading and writing them atomically."""
