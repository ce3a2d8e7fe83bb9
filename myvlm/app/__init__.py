"""`myvlm app`: a page in the browser to teach concepts, to try them on pictures and to correct them.

`desk` has the actions of the page, `page` its layout, `storage` its concepts on disk; `server` runs it, on
this machine only.
"""
