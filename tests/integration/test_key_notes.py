"""Processes with different secret keys find out about each other, and say what to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from redis_sessions import (
    ConfigurationError,
    Keyring,
    RedisStore,
    SessionManager,
    SessionMiddleware,
    generate_key,
)
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.testing import Clock
from tests.support.apps import doing
from tests.support.servers import StartServer, as_owner

OLD, NEW, OTHER = generate_key(), generate_key(), generate_key()
DAY = 24 * 3600


def directly(url: str) -> Any:
    """A client that may do everything; its stub doesn't tell awaitables apart."""
    return Redis.from_url(as_owner(url))


class Processes:
    """Managers of one application, as its processes have them."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix
        self.managers: list[SessionManager] = []

    def __call__(self, *keys: str) -> SessionManager:
        manager = SessionManager(RedisStore(self.url, prefix=self.prefix), Keyring(*keys))
        self.managers.append(manager)
        return manager

    async def serving(self, *keys: str) -> SessionManager:
        """One that has started as the middleware starts it."""
        manager = self(*keys)
        await manager.connect()
        await backend_of(manager).key_notes.renew()
        return manager

    async def noted(self) -> tuple[dict[bytes, bytes], int]:
        """What is noted, and for how long, in seconds."""
        async with directly(self.url) as redis:
            name = f"{self.prefix}keys"
            return await redis.hgetall(name), await redis.ttl(name)


@pytest.fixture
async def process(redis_url: str, prefix: str) -> AsyncIterator[Processes]:
    processes = Processes(redis_url, prefix)
    yield processes
    for manager in processes.managers:
        await manager.close()


async def sign_in(manager: SessionManager, user: str = "ann") -> str:
    session = await manager.load()
    session["user_id"] = user
    answer = await manager.commit(session)
    assert answer.token is not None
    return answer.token.value


# -- workers


async def test_workers_with_a_key_each_are_told(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in each worker but the first says that they need one key, and how."""
    for _ in range(3):
        await process.serving(generate_key())
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert "different secret keys" in message
        assert "redis-sessions key" in message


async def test_workers_that_start_at_once_are_told(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """Each notes its key before it looks: the later one at the least sees the earlier's."""
    await asyncio.gather(*(process.serving(generate_key()) for _ in range(4)))
    assert len(caplog.messages) >= 3


async def test_workers_without_a_lifespan_are_told_at_the_first_sign_in(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """They never connect beforehand."""
    await sign_in(process(OLD))
    assert caplog.messages == []
    manager = process(NEW)
    await sign_in(manager)
    await sign_in(manager)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "rings",
    [[[OLD], [OLD]], [[OLD], [OLD, NEW], [OLD]], [[OLD, NEW], [NEW, OLD], [OLD, NEW]]],
    ids=["one key", "a new one to be known", "a new one to be used"],
)
async def test_a_roll_out_is_no_difference(
    process: Processes, caplog: pytest.LogCaptureFixture, rings: list[list[str]]
) -> None:
    """Whatever the others seal with opens here."""
    for ring in rings:
        await sign_in(await process.serving(*ring))
    assert caplog.messages == []


async def test_a_key_that_was_used_long_ago_is_no_difference(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """A leaked key that was replaced isn't reported for ever: what counts is the last minutes."""
    await process.serving(OLD)
    store = process.managers[0].store
    assert isinstance(store, RedisStore)
    async with directly(process.url) as redis:
        name = f"{process.prefix}keys"
        for id, at in (await redis.hgetall(name)).items():
            await redis.hset(name, id, int(at) - 3600)
    await process.serving(NEW)
    assert caplog.messages == []


async def test_the_note_is_small_and_ends(process: Processes) -> None:
    """A process that makes a key at each start doesn't fill it; what isn't ours goes unseen."""
    manager = process(OLD)
    store = manager.store
    assert isinstance(store, RedisStore)
    for number in range(40):
        await store.key_ids(f"{number:08x}")
    noted, ttl = await process.noted()
    assert len(noted) <= 32
    assert DAY - 60 < ttl <= DAY
    async with directly(process.url) as redis:
        await redis.delete(f"{process.prefix}keys")
        strange = {"x": "1", "00000000": "soon", "0000000A": "1"}
        await redis.hset(f"{process.prefix}keys", mapping=strange)
    assert await store.key_ids() == {}


async def test_a_running_process_is_not_forgotten(redis_url: str, prefix: str) -> None:
    """While it signs users in it notes its key again every few minutes."""
    clock = Clock()
    store = RedisStore(redis_url, prefix=prefix)
    manager = SessionManager(store, Keyring(OLD), clock=clock)
    await sign_in(manager)
    async with directly(redis_url) as redis:
        await redis.delete(f"{prefix}keys")
        await sign_in(manager)
        assert not await redis.exists(f"{prefix}keys")
        clock.advance(301)
        await sign_in(manager)
        assert await redis.exists(f"{prefix}keys")
    await manager.close()


async def test_who_may_not_note_signs_in_all_the_same(start_server: StartServer) -> None:
    """Keys of other names than the documented ones may be denied."""
    server = start_server(
        "--user", "lame", "on", ">p", f"~session:{'?' * 20}", "~session:of:*", "+@all"
    )
    url = as_owner(server.url).replace("//", "//lame:p@")
    manager = SessionManager(RedisStore(url), Keyring(OLD))
    token = await sign_in(manager)
    assert await manager.load(token) == {"user_id": "ann"}
    assert await manager.sessions_of("bob") == []
    await manager.close()


# -- scripts


async def test_a_script_with_another_key_is_an_error(process: Processes) -> None:
    """It would find nobody's sessions, and end none."""
    await sign_in(await process.serving(OLD))
    script = process(OTHER)
    await script.connect()
    with pytest.raises(ConfigurationError, match="secret_key="):
        await script.sessions_of("ann")
    with pytest.raises(ConfigurationError, match="secret_key="):
        await script.revoke_all("ann")
    with pytest.raises(ConfigurationError, match="secret_key="):
        await script.revoke("A" * 20, principal="ann")


@pytest.mark.parametrize(
    ("ring", "application"),
    [([OLD], [OLD]), ([NEW, OLD], [OLD]), ([OLD, NEW], [NEW, OLD])],
    ids=["one key", "a new one, and the old", "in the middle of a roll-out"],
)
async def test_a_script_that_finds_nobody_is_no_error(
    process: Processes, ring: list[str], application: list[str]
) -> None:
    """A user without sessions has none, and the note is asked for once."""
    await process.serving(*application)
    script = process(*ring)
    assert await script.sessions_of("nobody") == []
    assert await script.revoke_all("nobody") == 0
    async with directly(process.url) as redis:
        await redis.delete(f"{process.prefix}keys")
        name = f"{process.prefix}keys"
        await redis.hset(name, "00000000", 1_800_000_000)
    assert await script.revoke_all("nobody") == 0


async def test_a_script_before_any_application_is_no_error(process: Processes) -> None:
    """Nobody has noted anything."""
    assert await process(OLD).revoke_all("ann") == 0


# -- other applications, and stores that others don't see


async def test_another_applications_cookie_is_told_once(
    process: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """Two on one host, with one cookie name and one prefix: their users are signed out in turn."""
    token = await sign_in(process(OLD))
    other = process(OTHER)
    for _ in range(2):
        assert await other.load(token) == {}
    (message,) = caplog.messages
    assert "session_cookie=" in message
    assert token not in message


async def test_memory_is_told_once_for_a_process(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other workers don't see it, and a counter would jump."""
    from redis_sessions import stores

    stores._warn_of_memory.cache_clear()  # pyright: ignore[reportPrivateUsage] - as a new process
    for _ in range(2):
        SessionMiddleware(doing(store="memory://", secret_key=OLD), OLD, store="memory://")
    (message,) = caplog.messages
    assert "embedded://" in message
