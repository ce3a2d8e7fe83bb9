"""Files: which pictures a path means, texts read, and anything written whole or not at all."""
