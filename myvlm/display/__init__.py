"""HTML for pages and notebooks: pictures with boxes, tables, grids and a small plot."""
