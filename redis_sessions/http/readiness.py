"""An endpoint by which a load balancer learns whether this process can serve sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from redis_sessions.lifecycle.manager import SessionManager

__all__ = ["readiness"]


def readiness(
    manager: SessionManager, *, timeout: float = 2.0
) -> Callable[[Request], Awaitable[PlainTextResponse]]:
    """An endpoint that answers 200 if `await manager.ready(timeout=timeout)`, and else 503.

        app.add_route("/ready", readiness(manager))

    The body is `ready` or `not ready`, and nothing else is told. The log says why.
    """

    async def ready(_: Request) -> PlainTextResponse:
        is_ready = await manager.ready(timeout=timeout)
        return PlainTextResponse(
            "ready" if is_ready else "not ready",
            200 if is_ready else 503,
            {"Cache-Control": "no-store"},
        )

    return ready
