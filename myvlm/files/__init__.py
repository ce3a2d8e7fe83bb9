"""Files: finding the pictures of a path, reading texts, and writing files atomically."""
