"""What others add by name: heads, encoders, families, methods, collections of models."""
