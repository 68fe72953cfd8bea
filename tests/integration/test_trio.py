"""On an event loop that isn't asyncio's, as hypercorn's trio worker has it."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette

from redis_sessions import ConfigurationError
from tests.support.apps import doing
from tests.support.asgi import KEY, Reply, ask


@pytest.fixture
def anyio_backend() -> str:
    return "trio"


@pytest.fixture(params=["redis", "memory"])
def app(request: pytest.FixtureRequest, redis_url: str, prefix: str) -> Starlette:
    """An application whose sessions are in Redis, or in memory."""
    store = redis_url if request.param == "redis" else "memory://"
    return doing(store=store, prefix=prefix, secret_key=KEY)


def check(reply: Reply) -> None:
    """It failed, and the message names asyncio."""
    with pytest.raises(ConfigurationError, match="sessions need asyncio"):
        reply.checked()


async def test_trio_fails_the_start(app: Starlette) -> None:
    """The application doesn't start, and the message names asyncio."""
    reply = await ask(app, kind="lifespan")
    check(reply)
    (message,) = reply.messages
    assert message["type"] == "lifespan.startup.failed"
    assert "asyncio" in message["message"]


@pytest.mark.parametrize("path", ["/plain", "/do"])
async def test_trio_fails_the_first_request(app: Starlette, path: str) -> None:
    """Without a lifespan every request says so, not the first sign-in alone."""
    for _ in range(2):
        check(await ask(app, path=path))
