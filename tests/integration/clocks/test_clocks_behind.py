"""An index whose server's clock is behind what is stored in it, as after a failover."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import pytest

from redis_sessions import MemoryStore, RedisStore, SessionManager, StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores import Store
from redis_sessions.stores.protocols import EntryStatus
from redis_sessions.testing import Clock, store_session
from redis_sessions.testing.conformance import new_id
from tests.integration.clocks.wrong_time import BEHIND, server_time
from tests.support.apps import manager_on
from tests.support.deployments import until
from tests.support.index_script import index_script
from tests.support.proxy import HOST, Proxy
from tests.support.redis_wire import Wire
from tests.support.servers import SERVERS, Server, StartServer, as_app

HOUR: Final = 3_600_000
KEY: Final = "k" * 32


@dataclass
class Place:
    """A store, and what sets the clock of its indexes: seconds ahead of the right time."""

    store: Store
    set: Callable[[float], Awaitable[None]]

    async def enter(self, age: float) -> EntryStatus:
        """Enter a sign-in whose request began so many milliseconds ago."""
        entered, _ = await self.store.enter(
            KEY, new_id(), age=age, own=-1, ttl=HOUR, descriptor=b""
        )
        return entered.status


@pytest.fixture(params=["memory", *SERVERS])
async def place(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Place]:
    """In memory, and on each kind of server, whose script is told the time."""
    if request.param == "memory":
        clock = Clock()

        async def set_clock(ahead: float) -> None:
            clock.now = Clock().now + ahead

        yield Place(MemoryStore(clock=clock), set_clock)
        return
    server: Server = request.getfixturevalue("start_server")(kind=request.param)
    with Wire(server.port) as redis, index_script([server_time(prefix)]):

        async def set_server(ahead: float) -> None:
            redis.ask("SET", prefix + BEHIND, str(-ahead))

        store = RedisStore(server.url, prefix=prefix)
        yield Place(store, set_server)
        await store.close()


@pytest.mark.parametrize("ahead", [-3600, -60])
async def test_sign_ins_work_at_once(place: Place, ahead: int) -> None:
    """Who begins after the index was asked there signs in, and whoever began before doesn't."""
    await place.store.revoke(KEY, keep=None, memory=HOUR)
    await place.set(ahead)
    assert await place.enter(200) is EntryStatus.REFUSED, "it may have begun before"
    await place.set(ahead + 10)
    assert await place.enter(20_000) is EntryStatus.REFUSED
    assert await place.enter(2000) is EntryStatus.LIVE


async def test_any_write_to_the_index_will_do(place: Place) -> None:
    """A touch or a mark tells the index what time it is, too."""
    for number in range(2):
        await place.set(0)
        id = new_id()
        at = int((await place.store.revoke(KEY, keep=id, memory=HOUR)).result)
        await place.set(-3600)
        if number:
            await place.store.touch(KEY, id, authenticated=at, ttl=HOUR, descriptor=b"")
        else:
            await place.store.mark(KEY, new_id(), ttl=HOUR)
        await place.set(-3599)
        assert await place.enter(500) is EntryStatus.LIVE


async def test_the_right_clock_is_back(place: Place) -> None:
    """After a second failover, to the first server: all of before ended, and sign-ins work."""
    id = new_id()
    entered, _ = await place.store.enter(KEY, id, age=0, own=-1, ttl=HOUR, descriptor=b"")
    revoked, _ = await place.store.revoke(KEY, keep=None, memory=HOUR)
    for ahead in (-3600, -3599, 1, 3600, -7200, -7199):
        await place.set(ahead)
        await place.enter(500)
        status = await place.store.ask(KEY, id, authenticated=entered.authenticated)
        assert status is EntryStatus.ENDED
        assert await place.store.ask(KEY, new_id(), authenticated=int(revoked)) is status
    await place.set(-7198)
    assert await place.enter(500) is EntryStatus.LIVE


async def test_a_clock_that_was_ahead(place: Place) -> None:
    """A year ahead by mistake: who signs in afterwards is signed in, and can be revoked."""
    await place.set(365 * 24 * 3600)
    await place.store.revoke(KEY, keep=None, memory=HOUR)
    await place.set(0)
    assert await place.enter(10) is EntryStatus.REFUSED
    await place.set(1)
    id = new_id()
    entered, _ = await place.store.enter(KEY, id, age=500, own=-1, ttl=HOUR, descriptor=b"")
    at = entered.authenticated
    assert await place.store.ask(KEY, id, authenticated=at) is EntryStatus.LIVE
    await place.store.revoke(KEY, keep=None, memory=HOUR)
    assert await place.store.ask(KEY, id, authenticated=at) is EntryStatus.ENDED


@pytest.mark.parametrize("ahead", [-3600, -40, 40])
async def test_a_restored_record_is_outdated(place: Place, ahead: float) -> None:
    """Whether its token or its sign-in was replaced, by a clock that was right."""
    id = new_id()
    entered, _ = await place.store.enter(KEY, id, age=0, own=-1, ttl=HOUR, descriptor=b"")
    at = entered.authenticated
    await place.store.authenticated(KEY, id, at=at, rotation=(at // 1000, 0))
    await place.set(ahead)
    assert await place.store.ask(KEY, id, authenticated=at) is EntryStatus.OUTDATED
    touched, _ = await place.store.touch(KEY, id, authenticated=at, ttl=HOUR, descriptor=b"")
    assert touched.status is EntryStatus.OUTDATED
    await place.store.authenticated(KEY, id, at=at + 1)
    newest = at // 1000
    status = await place.store.ask(KEY, id, authenticated=at, rotated=newest)
    assert status is EntryStatus.OUTDATED
    status = await place.store.ask(KEY, id, authenticated=at + 1, rotated=newest)
    assert status is EntryStatus.LIVE


async def sign_in(manager: SessionManager) -> str | None:
    """A request that begins now, and signs Alice in; None for a 503."""
    try:
        return await store_session(manager, {"user_id": "alice"})
    except StoreUnavailableError:
        return None


async def test_a_failover_to_a_server_that_is_behind(
    start_server: StartServer, prefix: str
) -> None:
    """The replica that is promoted is an hour behind: one sign-in is refused at most."""
    primary, replica = (start_server("--repl-diskless-sync-delay", "0") for _ in range(2))
    with (
        Proxy(primary.port) as name,
        Wire(replica.port) as redis,
        index_script([server_time(prefix)]),
    ):
        redis.ask("CONFIG", "SET", "replica-read-only", "no")
        redis.ask("REPLICAOF", HOST, primary.port)
        manager = manager_on(as_app(name.url), prefix)
        before = await sign_in(manager)
        assert before is not None
        assert await manager.revoke_all("alice") == 1
        index = f"{prefix}of:{backend_of(manager).keyring.primary.index('alice')}"

        async def replicated() -> bool:
            with Wire(primary.port) as there:
                return bool(there.ask("HGET", index, "meta") == redis.ask("HGET", index, "meta"))

        await until(replicated)
        redis.ask("SET", prefix + BEHIND, "3600")
        name.cut()
        redis.ask("REPLICAOF", "NO", "ONE")
        name.target = replica.port
        name.heal()
        tokens = [await sign_in(manager) for _ in range(3)]
        assert None not in tokens[1:]
        assert len(await manager.sessions_of("alice")) == len(tokens) - tokens.count(None)
        assert await manager.revoke_all("alice") == len(tokens) - tokens.count(None)
        await manager.close()
