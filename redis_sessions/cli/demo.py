"""The command `demo`: how the demo is served."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import webbrowser
from argparse import ArgumentTypeError, BooleanOptionalAction, Namespace
from contextlib import suppress

from redis_sessions.cli.basics import require
from redis_sessions.cli.output import complain, tell
from redis_sessions.cli.parser import Commands, positive
from redis_sessions.errors import ConfigurationError
from redis_sessions.session.keyring import generate_key

__all__ = ["add", "listen"]


def add(commands: Commands) -> None:
    """Add the command."""
    demo = commands.add(
        "demo",
        _demo,
        "Serve a page with two browsers side by side, and what Redis holds of their sessions.",
        """
        It needs the extra `demo`. SESSION_SECRET_KEY is its key; without one,
        each start makes a new one. A URL with a password belongs into the
        environment, as REDIS_SESSIONS_DEMO_STORE.

            redis-sessions demo
            redis-sessions demo --redis redis://localhost --workers 2

        Exit status: 0 when it was ended; 1 if the port is taken; 2 if the store
        can't be used.
        """,
    )
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address, or a name of this machine; default: 127.0.0.1. The page opens under "
        "this name, localhost and addresses alone",
    )
    demo.add_argument(
        "--port", type=_port, help="0: any free one; by default 8000, or the next one that is free"
    )
    demo.add_argument(
        "--store",
        "--redis",
        metavar="URL",
        help="the store's URL; by default embedded://demo, which runs a server of its own",
    )
    demo.add_argument(
        "--workers", type=positive, default=1, help="the number of processes; default: 1"
    )
    demo.add_argument(
        "--browser",
        action=BooleanOptionalAction,
        default=True,
        help="open the page, where there is a screen",
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError("write a number from 0 to 65535")
    return int(text)


def _demo(args: Namespace) -> int:
    require("demo", "fastapi", "jinja2", "python_multipart", "uvicorn")
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from redis_sessions.demo import (
        HOST_VARIABLE,
        KEY_VARIABLE,
        STORE_VARIABLE,
        from_environment,
    )

    # The processes that serve it are new ones: this is how they learn it.
    store = args.store or os.environ.get(STORE_VARIABLE) or "embedded://demo"
    os.environ[STORE_VARIABLE] = store
    os.environ[HOST_VARIABLE] = args.host
    os.environ[KEY_VARIABLE] = os.environ.get(KEY_VARIABLE) or generate_key()
    if store.startswith("memory:") and args.workers > 1:
        raise ConfigurationError("memory:// is one process' own: leave --workers out")
    listener = listen(args.host, args.port)
    if listener is None:
        return 1
    from_environment()  # it refuses what can't work, and starts an embedded server

    config = uvicorn.Config(
        "redis_sessions.demo:from_environment",
        factory=True,
        host=args.host,
        workers=args.workers,
        log_level="warning",
        timeout_graceful_shutdown=3,  # a browser that hangs doesn't keep it from ending
    )
    listener.listen(config.backlog)  # who comes before it has started waits, and isn't refused
    address = f"http://{_in_urls(args.host)}:{listener.getsockname()[1]}/"
    tell(f"The demo is at {address} (Ctrl-C ends it)")
    if args.browser and _has_screen():
        # A text browser would take the terminal, and a slow one needn't hold up the start.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        if args.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _in_urls(host: str) -> str:
    """The host as a browser opens it, which opens no "0.0.0.0"."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - somebody asked for all addresses
        return "localhost"
    return f"[{host}]" if ":" in host else host


def listen(host: str, port: int | None) -> socket.socket | None:
    """A socket at this port; without one, at the first that is free from 8000 on.

    None, and a message, if somebody else has the port.
    """
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
            complain(f"{host}:{number}: {exc}")
            return None
        listener.set_inheritable(True)
        return listener
    raise ConfigurationError("no port is free from 8000 to 8099: write --port 0")


def _has_screen() -> bool:
    """Whether somebody sits there who may want the page: there is a terminal, and a display."""
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return display and sys.stdout.isatty()
