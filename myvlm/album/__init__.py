"""Albums: caption thousands of photos once, show them in a page, write names into the photos' metadata."""
