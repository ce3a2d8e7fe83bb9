"""Commands that teach a model concepts, and that manage the folders the concepts are stored in."""
