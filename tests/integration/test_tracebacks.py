"""Tracebacks with local variables, of a Redis that goes away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable

import pytest

from redis_sessions import (
    Commit,
    Keyring,
    RedisStore,
    SessionManager,
    StoreUnavailableError,
    Written,
    generate_key,
)
from tests.support.servers import StartServer
from tests.unit.tracebacks.shown import ours, shown
from tests.unit.tracebacks.troubled_request import MARK, check, recorded_tokens


class Recording(RedisStore):
    """It keeps what it was given."""

    seen: list[bytes]

    def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Awaitable[Written[Commit]]:
        self.seen.append(bytes(value))
        return super().commit(id, expected, value, ttl)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_batch_that_fails(
    start_server: StartServer, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request learns what another one, whose write went along, wanted to store."""
    server, tokens = start_server(), recorded_tokens(monkeypatch)
    store = Recording(server.url, timeout=0.5)
    store.seen = []
    manager = SessionManager(store, Keyring(generate_key()))
    for _ in range(3):
        session = await manager.load()
        session["mark"] = MARK
        await manager.commit(session)
    sessions = [await manager.load(token.value) for token in tokens]
    for session in sessions:
        session["more"] = MARK
    server.process.send_signal(how)
    asked = (
        *map(manager.commit, sessions),
        *(manager.load(token.value) for token in tokens),
    )
    results = await asyncio.gather(*asked, return_exceptions=True)
    server.process.send_signal(signal.SIGCONT)
    await manager.close()
    assert len(store.seen) == 6
    for result in results:
        assert isinstance(result, StoreUnavailableError)
        assert not ours(result)
        check([shown(result)], tokens, store.seen)
