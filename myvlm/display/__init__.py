"""How things show themselves in a page or a notebook: pictures with boxes, tables, grids, a small plot."""
