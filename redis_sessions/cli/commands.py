"""The commands, as typer has them; of the demo, only how it is served."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from redis_sessions import ConfigurationError, __version__, generate_key
from redis_sessions.cli import key, require
from redis_sessions.embedded import find_server

__all__ = ["app"]

app: Final = typer.Typer(
    help="Sealed server-side sessions in Redis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they show local variables, and those may be secret
)
app.command()(key)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Sealed server-side sessions in Redis."""


@app.command()
def demo(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    store: Annotated[
        str, typer.Option(help="The store's URL; embedded:// runs a server of its own.")
    ] = "embedded://demo",
    workers: Annotated[int, typer.Option(min=1, help="The number of processes.")] = 1,
) -> None:
    """Serve a page that shows a session, and what Redis holds of it.

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
        from_environment()
        if store.startswith("embedded:"):
            find_server()
        if store.startswith("memory:") and workers > 1:
            raise ConfigurationError("memory:// is one process' own: leave --workers out")
    except ConfigurationError as exc:
        Console(stderr=True).print(f"redis-sessions: {escape(str(exc))}", soft_wrap=True)
        raise typer.Exit(2) from exc

    config = uvicorn.Config(
        "redis_sessions.demo:from_environment",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="warning",
    )
    listener = config.bind_socket()
    listener.listen(config.backlog)  # who comes before it has started waits, and isn't refused
    shown = f"[{host}]" if ":" in host else host
    address = escape(f"http://{shown}:{listener.getsockname()[1]}/")
    Console().print(f"The demo is at {address} (Ctrl-C ends it)", soft_wrap=True)
    with suppress(KeyboardInterrupt):
        if workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            uvicorn.Server(config).run(sockets=[listener])
