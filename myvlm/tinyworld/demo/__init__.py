"""The demonstration: one concept from photos to a page of what was said with it and without."""
