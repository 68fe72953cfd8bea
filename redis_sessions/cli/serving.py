"""The command `demo`: how the demo is served."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress

from redis_sessions.cli.basics import require
from redis_sessions.cli.output import tell
from redis_sessions.cli.parser import Commands, positive
from redis_sessions.connect.embedded import find_server
from redis_sessions.errors import ConfigurationError
from redis_sessions.session.keyring import generate_key

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    demo = commands.add(
        "demo",
        _demo,
        "Serve a page that shows a session, and what Redis holds of it.",
        """
        It needs the extra `demo`. SESSION_SECRET_KEY is its key; without one,
        each start makes a new one.
        """,
    )
    demo.add_argument("--host", default="127.0.0.1", help="the address; default: 127.0.0.1")
    demo.add_argument("--port", type=_port, default=8000, help="0: any free one; default: 8000")
    demo.add_argument(
        "--store",
        default="embedded://demo",
        help="the store's URL; by default embedded://demo, which runs a server of its own",
    )
    demo.add_argument(
        "--workers", type=positive, default=1, help="the number of processes; default: 1"
    )


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ArgumentTypeError("write a number from 0 to 65535")
    return int(text)


def _demo(args: Namespace) -> int:
    require("demo", "fastapi", "jinja2", "python_multipart", "uvicorn")
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from redis_sessions.demo import KEY_VARIABLE, STORE_VARIABLE, from_environment

    # The processes that serve it are new ones: this is how they learn it.
    os.environ[STORE_VARIABLE] = args.store
    os.environ[KEY_VARIABLE] = os.environ.get(KEY_VARIABLE) or generate_key()
    from_environment()
    if args.store.startswith("embedded:"):
        find_server()
    if args.store.startswith("memory:") and args.workers > 1:
        raise ConfigurationError("memory:// is one process' own: leave --workers out")

    config = uvicorn.Config(
        "redis_sessions.demo:from_environment",
        factory=True,
        host=args.host,
        port=args.port,
        workers=args.workers,
        log_level="warning",
        timeout_graceful_shutdown=3,  # a browser that hangs doesn't keep it from ending
    )
    listener = config.bind_socket()
    listener.listen(config.backlog)  # who comes before it has started waits, and isn't refused
    shown = f"[{args.host}]" if ":" in args.host else args.host
    tell(f"The demo is at http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):
        if args.workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
    return 0
