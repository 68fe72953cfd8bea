"""Tracebacks with local variables, of a Redis that goes away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable
from traceback import walk_tb

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
from tests.support.apps import manager_on
from tests.support.servers import StartServer, free_port
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


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "redis+cluster://127.0.0.1:{}"])
async def test_whose_frames_they_are(url: str) -> None:
    """An error has those and the notes of the one who asked, and nobody else."""
    manager = manager_on(url.format(free_port()))

    async def one() -> None:
        await manager.load("x" * 64)

    async def another() -> None:
        await manager.load("y" * 64)

    asked = [*await asyncio.gather(another(), one(), return_exceptions=True)]
    for ask in (one, another):
        asked += await asyncio.gather(ask(), return_exceptions=True)
    await manager.close()
    troubles = [each for each in asked if isinstance(each, StoreUnavailableError)]
    found = [[f.f_code.co_name for f, _ in walk_tb(each.__traceback__)] for each in troubles]
    assert found == [["another"], ["one"], ["one"], ["another"]]
    troubles[0].add_note("mine")
    assert "mine" not in getattr(troubles[1], "__notes__", ())
