"""The demonstration: learn one concept from photos, and show on a page what it changes in captions."""
