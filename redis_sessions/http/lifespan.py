"""The ASGI lifespan: connects ahead, closes at the end, and fails the start of what can't work."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions.errors import ConfigurationError, SessionError, StoreUnavailableError
from redis_sessions.events import logger
from redis_sessions.http.connection import SCOPE_KEY
from redis_sessions.http.setup import Setup

__all__ = ["fail_start", "run_lifespan"]

_OVER: Final = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


async def fail_start(error: ConfigurationError, receive: Receive, send: Send) -> NoReturn:
    """Have the server not start, and say why."""
    # A server takes an exception alone for an application without a lifespan, and starts; the
    # message alone lets a TestClient go on.
    await receive()
    await send({"type": "lifespan.startup.failed", "message": str(error)})
    raise error


async def run_lifespan(
    app: ASGIApp, setup: Setup, scope: Scope, receive: Receive, send: Send
) -> None:
    """Connect before the application starts, and close after it has ended."""
    outer: tuple[Setup, ...] = scope.get(SCOPE_KEY, ())
    try:
        for other in outer:
            setup.is_same_as(other)
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
        return message

    async def on_send(message: Any) -> None:
        if message["type"] in _OVER:
            await setup.manager.close()
        await send(message)

    await app({**scope, SCOPE_KEY: (*outer, setup)}, on_receive, on_send)
