"""On an event loop that isn't asyncio's, as hypercorn's trio worker has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from redis_sessions import ConfigurationError
from tests.support.apps import (
    doing,
)
from tests.support.asgi import (
    KEY,
)


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


Call = Callable[[dict[str, Any]], Awaitable[list[Message]]]


@pytest.fixture(params=["redis", "memory"])
def call(request: pytest.FixtureRequest, redis_url: str, prefix: str) -> Call:
    """Call an application with a scope; what it sends."""
    store = redis_url if request.param == "redis" else "memory://"
    app = doing(store=store, prefix=prefix, secret_key=KEY)

    async def called(scope: dict[str, Any]) -> list[Message]:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "lifespan.startup"}

        async def send(message: Message) -> None:
            sent.append(message)

        with pytest.raises(ConfigurationError, match="sessions need asyncio"):
            await app(scope, receive, send)
        return sent

    return called


async def test_trio_fails_the_start(call: Call) -> None:
    """The application doesn't start, and the message names asyncio."""
    (message,) = await call({"type": "lifespan"})
    assert message["type"] == "lifespan.startup.failed"
    assert "asyncio" in message["message"]


@pytest.mark.parametrize("path", ["/plain", "/do"])
async def test_trio_fails_the_first_request(call: Call, path: str) -> None:
    """Without a lifespan every request says so, not the first sign-in alone."""
    for _ in range(2):
        await call({"type": "http", "method": "GET", "path": path, "headers": []})
