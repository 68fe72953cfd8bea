"""The command `demo`: how the demo is served."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from redis_sessions import ConfigurationError, StoreError, generate_key
from redis_sessions.cli import require

__all__ = ["demo", "listen"]


def demo(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="0: any free one. By default 8000, or the next one that is free."
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--store", "--redis", help="The store's URL; embedded:// runs a server of its own."
        ),
    ] = "embedded://demo",
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 1,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page, where there is a screen.")
    ] = True,
) -> None:
    """Serve a page with two browsers side by side, and what Redis holds of their sessions.

    SESSION_SECRET_KEY is its key; without one, each start makes a new one.
    """
    require("demo", "fastapi", "jinja2", "python_multipart", "uvicorn")
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from redis_sessions.demo import KEY_VARIABLE, STORE_VARIABLE, from_environment

    # The processes that serve it are new ones: this is how they learn it.
    os.environ[STORE_VARIABLE] = store
    os.environ[KEY_VARIABLE] = os.environ.get(KEY_VARIABLE) or generate_key()
    try:
        if store.startswith("memory:") and workers > 1:
            raise ConfigurationError("memory:// is one process' own: leave --workers out")
        listener = listen(host, port)
        from_environment()  # it refuses what can't work, and starts an embedded server
    except (ConfigurationError, StoreError) as exc:
        Console(stderr=True).print(f"redis-sessions: {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(2) from exc

    config = uvicorn.Config(
        "redis_sessions.demo:from_environment",
        factory=True,
        host=host,
        workers=workers,
        log_level="warning",
        timeout_graceful_shutdown=3,  # a browser that hangs doesn't keep it from ending
    )
    listener.listen(config.backlog)  # who comes before it has started waits, and isn't refused
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listener.getsockname()[1]}/"
    Console().print(f"The demo is at {escape(address)} (Ctrl-C ends it)", soft_wrap=True)
    if browser and _has_screen():
        # A text browser would take the terminal, and a slow one needn't hold up the start.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        if workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])


def listen(host: str, port: int | None) -> socket.socket:
    """A socket at this port. None: the first that is free from 8000 on. Exits with status 1."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(8000, 8100) if port is None else [port]:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            # Only who listens finds out that another one already does, where it bound it likewise.
            listener.listen()
        except OSError as exc:
            listener.close()
            if port is None and exc.errno == errno.EADDRINUSE:
                continue
            Console(stderr=True).print(f"redis-sessions: {host}:{number}: {exc}", soft_wrap=True)
            raise typer.Exit(1) from exc
        listener.set_inheritable(True)
        return listener
    raise ConfigurationError("no port is free from 8000 to 8099: write --port 0")


def _has_screen() -> bool:
    """Whether somebody sits there who may want the page: there is a terminal, and a display."""
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return display and sys.stdout.isatty()
