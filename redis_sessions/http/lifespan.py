"""The ASGI lifespan: the store connects at the start, and closes at the end.

Between them `on_expired=` is called.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any, Final, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions.errors import ConfigurationError, SessionError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.http.connection import SCOPE_KEY
from redis_sessions.http.setup import Setup
from redis_sessions.lifecycle.sweep import running as running_sweep

__all__ = ["fail_start", "run_lifespan"]

_OVER: Final = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


async def fail_start(error: ConfigurationError, receive: Receive, send: Send) -> NoReturn:
    """Stop the server from starting, with an error that says why."""
    # Both are needed. After an exception alone, a server takes the application for one without a
    # lifespan, and starts. After the message alone, a TestClient goes on.
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(error)})
    raise error


async def run_lifespan(
    app: ASGIApp, setup: Setup, scope: Scope, receive: Receive, send: Send
) -> None:
    """Connect before the application starts, and close after it has ended.

    A store that can't be reached doesn't stop the start. Wrong credentials, missing rights and a
    wrong configuration do.
    """
    outer: tuple[Setup, ...] = scope.get(SCOPE_KEY, ())
    expiry, running = setup.backend.expiry, AsyncExitStack()
    try:
        for other in outer:
            if setup.is_same_as(other):
                expiry = None  # that one runs it
    except ConfigurationError as exc:
        logger.error("sessions: %s", exc)
        await fail_start(exc, receive, send)

    async def on_receive() -> Message:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await setup.manager.connect()
                await setup.backend.key_notes.renew()
            except StoreUnavailableError as exc:
                logger.error(
                    "sessions: %s; the application starts all the same, and requests that need "
                    "a session get 503 until the store serves. Start Redis, correct store=, or "
                    "write store='embedded://' in development",
                    exc,
                )
            except SessionError as exc:
                await send({"type": "lifespan.startup.failed", "message": str(exc)})
                raise
            if expiry is not None:
                await running.enter_async_context(running_sweep(expiry))
        return message

    async def on_send(message: Any) -> None:
        if message["type"] in _OVER:
            await running.aclose()
            await setup.manager.close()
        await send(message)

    try:
        await app({**scope, SCOPE_KEY: (*outer, setup)}, on_receive, on_send)
    finally:
        await running.aclose()
