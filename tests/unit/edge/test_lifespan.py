"""The ASGI lifespan: the store is connected before the application starts, and closed after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    MemoryStore,
    SessionManager,
    SessionMiddleware,
    StoreError,
    StoreUnavailableError,
    generate_key,
)
from tests.unit.accept.elsewhere import Elsewhere
from tests.unit.edge.edge import Edge, responding

ENDS = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class Store(MemoryStore):
    """Writes down when it is connected and closed."""

    def __init__(self, log: list[str], error: Exception | None = None) -> None:
        super().__init__()
        self._log, self._error = log, error

    async def connect(self) -> None:
        self._log.append("connect")
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        self._log.append("close")


class Life:
    """An application's lifespan, and all that happens in it, in order."""

    def __init__(self, error: Exception | None = None, **options: Any) -> None:
        self.log: list[str] = []
        self.sent: list[Message] = []
        self.manager = SessionManager(Store(self.log, error), generate_key())
        self.middleware = SessionMiddleware(self._app, manager=self.manager, **options)
        self._says: Sequence[str] = ("lifespan.startup.complete", "lifespan.shutdown.complete")

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        for says in self._says:
            self.log.append((await receive())["type"])
            await send({"type": says})

    async def run(self, says: Sequence[str] = (), app: ASGIApp | None = None) -> None:
        """`says`: what the application answers, if that isn't all well."""
        self._says = tuple(says) or self._says
        asks = iter(["lifespan.startup", "lifespan.shutdown"])

        async def receive() -> Message:
            return {"type": next(asks)}

        async def send(message: Message) -> None:
            self.log.append(message["type"])
            self.sent.append(message)

        await (app or self.middleware)({"type": "lifespan"}, receive, send)


async def test_a_whole_life() -> None:
    """Connected when the application is told to start, closed before the server hears its end."""
    life = Life()
    await life.run()
    assert life.log == [
        "connect",
        "lifespan.startup",
        "lifespan.startup.complete",
        "lifespan.shutdown",
        "close",
        "lifespan.shutdown.complete",
    ]


@pytest.mark.parametrize("end", ENDS)
async def test_each_end_closes(end: str) -> None:
    """Also that of an application that couldn't start, or couldn't end as it should."""
    life = Life()
    says = [end] if "startup" in end else ["lifespan.startup.complete", end]
    await life.run(says)
    assert life.log[-2:] == ["close", end]
    assert life.log.count("close") == 1


class Source(Elsewhere):
    """A source of other libraries' sessions that writes down when it is closed."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self._log = log

    async def close(self) -> None:
        self._log.append("close the source")


async def test_sources_are_closed() -> None:
    """After the store, and before the server hears of the end."""
    log = list[str]()
    life = Life(accept=[Source(log)])
    life.log = log
    await life.run()
    assert log[-2:] == ["close the source", "lifespan.shutdown.complete"]


async def test_a_store_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """The application starts all the same, and the log says what doesn't work."""
    life = Life(StoreUnavailableError("nobody listens"))
    await life.run()
    assert life.log[:3] == ["connect", "lifespan.startup", "lifespan.startup.complete"]
    assert "nobody listens; the application starts all the same" in caplog.text


@pytest.mark.parametrize("error", [ConfigurationError("wrong"), StoreError("wrong")])
async def test_a_store_that_cannot_work(error: Exception) -> None:
    """The application doesn't start, and the server is told why."""
    life = Life(error)
    with pytest.raises(type(error), match="wrong"):
        await life.run()
    assert life.sent == [{"type": "lifespan.startup.failed", "message": "wrong"}]
    assert "lifespan.startup" not in life.log


async def test_a_middleware_that_cannot_work(at: Edge) -> None:
    """Neither does it; and where there is no lifespan, each request says why."""
    life = Life(on_unavailable="sometimes")
    with pytest.raises(ConfigurationError, match="'sometimes'"):
        await life.run()
    (told,) = life.sent
    assert told["type"] == "lifespan.startup.failed"
    assert "'sometimes'" in told["message"]
    wrong: Any = "sometimes"
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="'sometimes'"):
            await at.serve(responding(), on_unavailable=wrong)
    assert at.sent == []


async def test_two_that_cannot_work() -> None:
    """What an inner one finds wrong with the outer one is found at the start, too."""
    life = Life()
    other = SessionManager(life.manager.store, generate_key())
    with pytest.raises(ConfigurationError, match="two SessionMiddlewares"):
        await life.run(app=SessionMiddleware(life.middleware, manager=other))
    assert [message["type"] for message in life.sent] == ["lifespan.startup.failed"]


async def test_the_same_twice() -> None:
    """It starts, and both say the same."""
    life = Life()
    await life.run(app=SessionMiddleware(life.middleware, manager=life.manager))
    assert life.log[-1] == "lifespan.shutdown.complete"
    assert life.log.index("connect") < life.log.index("lifespan.startup")
