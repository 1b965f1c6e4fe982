"""Serves the page on this machine: nothing of it comes from elsewhere, and no file but an upload is ever sent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from PIL import Image

from mm.app.events import UPLOADS
from mm.app.page import STYLE
from mm.config import ConfigError
from mm.media import MOST_PIXELS

LARGEST_UPLOAD = "500mb"
PATIENCE_S = 1  # before what is open is closed: a page in a browser keeps a connection for ever
OWN = ("127.0.0.1", "localhost", "::1")  # hosts that only this machine can reach
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; form-action 'self'; base-uri 'self'"

log = logging.getLogger(__name__)


def check_installed() -> None:
    """Refuse to start without Gradio, before anything is loaded.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError('the page takes Gradio, which is not installed: pip install "mm[app]".') from error


def serve(build: Callable[[], Any], host: str, port: int) -> None:
    """Serve a page until it is interrupted; what was uploaded is gone then.

    Args:
        build: makes the page, once it is settled where uploads are kept: see `mm.app.page.build`.
        host: address to listen at.
        port: 0 = any that is free.

    Raises:
        ConfigError: the address is taken or not this machine's.
    """
    import uvicorn

    with bound(host, port) as listening, tempfile.TemporaryDirectory(prefix="mm-page-") as uploads:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the uploads are removed then, too
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))  # which uvicorn knows
        os.environ[UPLOADS] = os.path.realpath(uploads)
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # PIL warns above it and refuses what is twice as large
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        config = uvicorn.Config(
            application(build(), host), log_level="warning", lifespan="on", timeout_graceful_shutdown=PATIENCE_S
        )
        if host not in OWN:
            log.warning("whoever reaches %s can use this page: it asks for no password", host)
        named = f"[{host}]" if ":" in host else host
        log.info("the page: http://%s:%d/   (Ctrl-C ends it)", named, listening.getsockname()[1])
        logging.getLogger("uvicorn.error").addFilter(not_called_off)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def not_called_off(record: logging.LogRecord) -> bool:
    """Whether a line of the log is about more than requests that were open when the page ended."""
    called_off = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not called_off and "graceful shutdown exceeded" not in record.getMessage()


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: it cannot.
    """
    said = f"cannot listen at {host}:{port}: {{}}. Choose another --port or --host."
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise ConfigError(said.format(str(error).rstrip("."))) from error
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # who comes before the page is up waits, instead of being refused
    except (OSError, OverflowError) as error:
        listening.close()
        raise ConfigError(said.format(str(error).rstrip("."))) from error
    return listening


def application(page: Any, host: str) -> Any:
    """The page as an ASGI application, within walls."""
    import gradio
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    whole = FastAPI(openapi_url=None)
    if host in OWN:  # a name of somebody else's that leads here is no way in
        whole.add_middleware(TrustedHostMiddleware, allowed_hosts=[*OWN, "[::1]"])
    page.has_launched = True  # else Gradio does not look where a file lies that a request names
    gradio.mount_gradio_app(
        whole,
        page,
        path="",
        app_kwargs={"openapi_url": None},
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        css=STYLE,
    )
    return Walls(whole)


class Walls:
    """An application whose pages load nothing from elsewhere, and which fetches nothing from there for them."""

    def __init__(self, inside: Any):
        self.inside = inside

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        path = unquote(unquote(scope.get("path", ""))).lower()
        if scope["type"] == "http" and ("file=http" in path or "proxy=" in path):
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"this page serves nothing from elsewhere"})
            return

        async def walled(sent: Any) -> None:
            if sent["type"] == "http.response.start":
                sent["headers"] = [*sent.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(sent)

        await self.inside(scope, receive, walled)
