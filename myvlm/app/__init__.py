"""`myvlm app`: a page in the browser to teach concepts, to try them on pictures and to correct them.

`desk` is what the page does, `page` how it looks, `server` where it runs: on this machine alone.
"""
