"""`python -m myvlm` is the `myvlm` command."""

from myvlm.cli import app

if __name__ == "__main__":
    app(prog_name="myvlm")
