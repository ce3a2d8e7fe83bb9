"""Serve the page on the loopback address, for browsers on this machine only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from myvlm.app.desk import Desk
from myvlm.app.page import CSS, build
from myvlm.errors import InputError, import_extra

HOST = "127.0.0.1"
LARGEST_FILE = "200mb"
CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: data: blob:"
)
"""Content security policy: the browser loads nothing from any other host (fonts, scripts, analytics)."""


@contextmanager
def running(desk: Desk, *, port: int | None = None, browser: bool = False) -> Iterator[str]:
    """Serve the page in a thread and yield its address; uploaded files are deleted at the end.

    Args:
        port: by default the first free port from 7860 on.
        browser: open the page in the browser.

    Raises:
        MissingPackageError: gradio is not installed.
        InputError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="myvlm-app-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        gr = import_extra("gradio", what="The page", install="myvlm[app]")
        page = build(desk).queue(default_concurrency_limit=None)
        try:
            _, address, _ = page.launch(
                server_name=HOST, server_port=port, share=False, inbrowser=browser, quiet=True,
                prevent_thread_lock=True, show_error=True, max_file_size=LARGEST_FILE, css=CSS,
                theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
                enable_monitoring=False, ssr_mode=False, footer_links=[], mcp_server=False,
                app_kwargs={"middleware": _middleware()},
            )  # fmt: skip
        except OSError as error:
            raise InputError(
                f"The page cannot be served on port {port or '7860 to 7959'}.",
                got=str(error), expected="a free port", fix="choose another with --port",
            ) from error  # fmt: skip
        try:
            yield str(address)
        finally:
            page.close(verbose=False)


def _middleware() -> list[Any]:
    """Return the ASGI middleware: it accepts only local host names and adds the content security policy."""
    middleware = import_extra("starlette.middleware", what="The page", install="myvlm[app]")
    hosts = import_extra("starlette.middleware.trustedhost", what="The page", install="myvlm[app]")
    return [
        middleware.Middleware(hosts.TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]),
        middleware.Middleware(_ContentSecurityPolicy),
    ]


class _ContentSecurityPolicy:
    """ASGI middleware that adds the content security policy to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                header = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        await self.app(scope, receive, with_policy)
