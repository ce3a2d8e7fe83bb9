"""Commands that run a model on pictures: to describe them, to locate concepts, to evaluate the model."""
