"""Registries of plugins: heads, encoders, families, evaluation methods and collections of models."""
