"""Albums: thousands of photos read once, shown in a page, and named in the photos' own metadata."""
