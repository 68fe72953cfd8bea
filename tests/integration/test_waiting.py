"""Writes that wait for replicas, and what becomes of those that too few confirm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    ReplicationError,
    SessionManager,
    StoreError,
)
from redis_sessions.outcome import Outcome
from redis_sessions.record import HEADER_SIZE, tombstone
from redis_sessions.session import Session
from redis_sessions.stores import Commit
from redis_sessions.stores.protocols import Seat
from redis_sessions.testing import Clock, store_session, topology
from redis_sessions.token import SessionToken
from tests.deployments import until
from tests.integration.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support import app_user, as_app, as_user

MINUTE = 60_000


@pytest.fixture(scope="module")
def running(server_binary: Path) -> Iterator[topology.Topology]:
    with topology.replicas(2, server=server_binary, options=app_user(replicas=True)) as servers:
        yield servers


@pytest.fixture
def short(running: topology.Topology) -> Iterator[topology.Topology]:
    """One of the two replicas hangs."""
    replica = running.replicas[0]
    replica.pause()
    yield running
    replica.resume()
    running.wait_ready()


@pytest.fixture
async def strict(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1)
    yield store
    await store.close()


@pytest.fixture
async def lenient(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1, on_too_few="warn"
    )
    yield store
    await store.close()


@pytest.fixture
async def every(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    """Ordinary changes and touches wait, too."""
    store = RedisStore(
        running.url, prefix=prefix, wait_replicas=2, wait_timeout=0.1, wait_for="all"
    )
    yield store
    await store.close()


def new_id() -> str:
    return SessionToken.generate().id


def record(rotated_at: int = 0) -> bytes:
    return tombstone(rotated_at) + token_bytes(50)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == "redis_sessions"]


# -- the store


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"wait_replicas": -1}, "write how many, or 0"),
        ({"wait_replicas": True}, "write how many, or 0"),
        ({"wait_timeout": 0}, "write seconds, above 0"),
        ({"wait_timeout": 3}, "up to 2.5"),
        ({"wait_for": "some"}, "write 'lifecycle' or 'all'"),
        ({"on_too_few": "ignore"}, "write 'error' or 'warn'"),
    ],
)
def test_options(options: dict[str, Any], advice: str) -> None:
    """What can't work is refused."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore("redis://localhost", **options)
    assert advice in str(caught.value)


async def test_all_have_it(strict: RedisStore, running: topology.Topology) -> None:
    """What was answered is on every replica."""
    id, value = new_id(), record()
    assert await strict.commit(id, None, value, MINUTE) is Commit.STORED
    for node in running.replicas:
        with node.connect() as client:
            assert client.get(strict.prefix + id) == value


async def test_which_writes_wait(short: topology.Topology, strict: RedisStore) -> None:
    """Creation, rotation, ends, marks and revocations; not a change, a touch or a question."""
    id, other, key = new_id(), new_id(), "k" * 32
    first, same = record(), record()
    with pytest.raises(ReplicationError) as caught:
        await strict.commit(id, None, first, MINUTE)
    assert caught.value.result is Commit.STORED
    assert await strict.load(id) == first
    assert await strict.commit(id, first[:HEADER_SIZE], same, MINUTE) is Commit.STORED
    rotated = record(7)
    with pytest.raises(ReplicationError):
        await strict.commit(id, same[:HEADER_SIZE], rotated, MINUTE)
    assert await strict.commit(id, first[:HEADER_SIZE], record(8), MINUTE) is Commit.CONFLICT
    for result in (True, False):  # ended, or ended before: the second attempt writes as well
        with pytest.raises(ReplicationError) as caught:
            await strict.end(id, tombstone(5), MINUTE)
        assert caught.value.result is result
    with pytest.raises(ReplicationError):
        await strict.enter(key, other, age=0, own=-1, ttl=MINUTE, descriptor=b"")
    seat, _ = await strict.touch(key, other, authenticated=0, ttl=MINUTE, descriptor=b"")
    assert seat is Seat.LIVE
    with pytest.raises(ReplicationError) as caught:
        await strict.end_all(key, keep=None, memory=MINUTE)
    assert caught.value.result[1:] == ([other], [])
    with pytest.raises(ReplicationError):
        await strict.mark(key, new_id(), ttl=MINUTE)


async def test_a_primary_that_is_demoted_while_it_waits(server_binary: Path, prefix: str) -> None:
    """Its replicas have confirmed nothing: the write is unsure, and not a bug."""
    with topology.replicas(2, server=server_binary) as running:
        primary, (follower, late) = running.primary, running.replicas
        store = RedisStore(running.url, prefix=prefix, wait_replicas=2, wait_timeout=2.5)
        key, id = "k" * 32, new_id()
        await store.mark(key, new_id(), ttl=MINUTE)
        late.pause()
        write = asyncio.ensure_future(store.mark(key, id, ttl=MINUTE))
        await until(lambda: blocked(primary))
        primary.ask("REPLICAOF", "127.0.0.1", follower.port)
        with pytest.raises(ReplicationError, match="0 of 2 replicas"):
            await write
        await store.close()


async def blocked(node: topology.Node) -> bool:
    return bool(node.ask("INFO", "clients")["blocked_clients"])


async def test_every_write_may_wait(
    short: topology.Topology, running: topology.Topology, prefix: str
) -> None:
    """With wait_for="all" a change and a touch wait, too."""
    store = RedisStore(
        as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1, wait_for="all"
    )
    id, first = new_id(), record()
    with pytest.raises(ReplicationError):
        await store.commit(id, None, first, MINUTE)
    with pytest.raises(ReplicationError):
        await store.commit(id, first[:HEADER_SIZE], record(), MINUTE)
    with pytest.raises(ReplicationError):
        await store.touch("k" * 32, id, authenticated=0, ttl=MINUTE, descriptor=b"")
    seat, _ = await store.touch("k" * 32, id, authenticated=0, ttl=0, descriptor=b"")
    assert seat is Seat.LIVE
    await store.close()


async def test_a_warning_instead(
    running: topology.Topology, lenient: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged when it begins and when it ends, not for each write."""
    replica = running.replicas[0]
    replica.pause()
    try:
        for _ in range(3):
            assert await lenient.commit(new_id(), None, record(), MINUTE) is Commit.STORED
        assert ["1 of 2 replicas confirmed" in text for text in told(caplog)] == [True]
    finally:
        replica.resume()
        running.wait_ready()
    lenient_again = [await lenient.commit(new_id(), None, record(), MINUTE) for _ in range(2)]
    assert lenient_again == [Commit.STORED] * 2
    assert told(caplog)[1:] == ["sessions: 2 replicas confirm writes again"]


async def test_starting_with_too_few(
    short: topology.Topology, strict: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The application starts, and the log says what is missing."""
    with caplog.at_level(logging.ERROR):
        await strict.connect()
    assert ["the application starts" in text for text in told(caplog)] == [True]


async def test_starting_with_too_few_and_without_a_right(
    short: topology.Topology, prefix: str
) -> None:
    """The right is looked for all the same."""
    short.primary.ask("ACL", "SETUSER", "other", "on", ">sesame", "~*", "+@all", "-hset")
    url = as_user(short.url, "other:sesame")
    store = RedisStore(url, prefix=prefix, wait_replicas=2, wait_timeout=0.1)
    with pytest.raises(ConfigurationError, match="give the user the rights"):
        await store.connect()
    await store.close()
    short.primary.ask("ACL", "DELUSER", "other")


# -- the manager and HTTP


async def test_a_sign_in_that_too_few_have(short: topology.Topology, strict: RedisStore) -> None:
    """It is a 503 without a cookie: nobody has the token."""
    manager = manager_on(strict)
    async with client_of(doing(manager=manager)) as browser:
        response = await browser.get("/do?set=user_id:alice")
    assert (response.status_code, token_in(response)) == (503, None)
    assert response.headers["retry-after"] == "1"
    assert manager.counts["unavailable: replication"] == 1


async def test_a_sign_out_that_too_few_have(running: topology.Topology, strict: RedisStore) -> None:
    """It is a 503, and the session has ended all the same."""
    manager = manager_on(strict)
    async with client_of(doing(manager=manager)) as browser:
        token = await signed_in(browser)
        replica = running.replicas[0]
        replica.pause()
        try:
            response = await browser.get("/do?drop=user_id")
        finally:
            replica.resume()
            running.wait_ready()
        assert (response.status_code, token_in(response)) == (503, None)
        assert await manager.load(token) == {}
        assert await manager.sessions_of("alice") == []


async def test_a_sign_out_that_is_asked_for_again(
    running: topology.Topology, strict: RedisStore
) -> None:
    """`clear()` is no more certain the second time, until the replicas have its end."""
    manager = manager_on(strict)
    async with client_of(doing(manager=manager)) as browser:
        await signed_in(browser)
        replica = running.replicas[0]
        replica.pause()
        try:
            unsure = [(await browser.get("/do?clear=")).status_code for _ in range(2)]
        finally:
            replica.resume()
            running.wait_ready()
        assert unsure == [503, 503]
        assert (await browser.get("/do?clear=")).status_code == 200


async def test_a_mark_that_is_repeated(running: topology.Topology, strict: RedisStore) -> None:
    """It is confirmed by the replicas that have it, not by whoever wrote nothing."""
    await strict.enter("of-alice", "A" * 20, age=0, own=-1, ttl=MINUTE, descriptor=b"")
    replica = running.replicas[0]
    replica.pause()
    try:
        for _ in range(2):
            with pytest.raises(ReplicationError):
                await strict.mark("of-alice", "A" * 20, ttl=MINUTE)
    finally:
        replica.resume()
        running.wait_ready()
    assert await strict.mark("of-alice", "A" * 20, ttl=MINUTE) is False


async def test_a_rotation_that_too_few_have(running: topology.Topology, strict: RedisStore) -> None:
    """The new token is sent: the old one doesn't open any more."""
    manager = manager_on(strict)
    async with client_of(doing(manager=manager)) as browser:
        old = await signed_in(browser)
        replica = running.replicas[0]
        replica.pause()
        try:
            response = await browser.get("/do?rotate=")
        finally:
            replica.resume()
            running.wait_ready()
        new = token_in(response)
        assert response.status_code == 200
        assert new not in (None, old)
        assert await manager.load(new) == {"user_id": "alice"}
    assert manager.counts["unavailable: replication"] == 1


async def test_a_revocation_that_too_few_have(
    running: topology.Topology, strict: RedisStore
) -> None:
    """All sessions have ended all the same, and the error says how many."""
    manager = manager_on(strict)
    tokens = [await store_session(manager, {"user_id": "bob"}) for _ in range(3)]
    replica = running.replicas[0]
    replica.pause()
    try:
        with pytest.raises(ReplicationError) as caught:
            await manager.revoke_all("bob")
    finally:
        replica.resume()
        running.wait_ready()
    assert caught.value.result == 3
    assert [dict(await manager.load(token)) for token in tokens] == [{}] * 3


async def test_save_tells(short: topology.Topology, running: topology.Topology) -> None:
    """`save()` raises it, with the status that it has over HTTP; the change is stored."""
    store = RedisStore(as_app(running.url), wait_replicas=2, wait_timeout=0.1, wait_for="all")
    lax = RedisStore(as_app(running.url))
    token = await store_session(manager_on(lax), {"n": 1})
    manager = manager_on(store)
    session: Session = await manager.load(token)
    session["n"] = 2
    with pytest.raises(ReplicationError):
        await manager.save(session)
    assert await manager.load(token) == {"n": 2}
    await store.close()
    await lax.close()


async def test_a_touch_never_fails_a_read(
    short: topology.Topology, running: topology.Topology, prefix: str
) -> None:
    """Not even if it had to wait."""
    now = [1_800_000_000.0]
    lax = manager_on(RedisStore(as_app(running.url), prefix=prefix), clock=lambda: now[0])
    token = await store_session(lax, {"n": 1})
    store = RedisStore(
        as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1, wait_for="all"
    )
    manager = manager_on(store, clock=lambda: now[0])
    now[0] += 3600
    async with client_of(doing(manager=manager), token) as browser:
        response = await browser.get("/do")
    assert (response.status_code, response.json()) == (200, {"n": 1})
    for each in (lax, manager):
        await each.close()


async def test_what_a_plain_change_would_have_returned(
    short: topology.Topology, every: RedisStore
) -> None:
    """It comes with the error, and the change is known to be stored: it crosses nothing."""
    lax = manager_on(short.url, every.prefix)
    manager = manager_on(every, on_conflict="error")
    session = await manager.load(await store_session(lax, {"n": 0}))
    for number in (1, 2):
        session["n"] = number
        with pytest.raises(ReplicationError) as caught:
            await manager.commit(session)
        assert caught.value.result.outcome is Outcome.CHANGE
    await lax.close()


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("change", Outcome.CHANGE),
        ("rotate", Outcome.ROTATE),
        ("authenticated", Outcome.REAUTHENTICATE),
    ],
)
async def test_a_touch_never_fails_a_write(
    short: topology.Topology, every: RedisStore, what: str, outcome: Outcome
) -> None:
    """What is due besides is carried out, as if no touch were due."""
    clock = Clock()
    lax = manager_on(short.url, every.prefix, clock=clock)
    manager = manager_on(every, clock=clock)
    token = await store_session(lax, {"user_id": "alice"})
    clock.advance(3600)
    session = await manager.load(token)
    if what == "change":
        session["n"] = 1
        with pytest.raises(ReplicationError) as caught:
            await manager.commit(session)
        answer = caught.value.result
        assert await manager.load(token) == {"user_id": "alice", "n": 1}
    else:
        getattr(session, what)()
        answer = await manager.commit(session)
        assert await manager.load(token) == {}
    assert answer.outcome is outcome
    await lax.close()


async def test_an_acknowledged_sign_out_survives(server_binary: Path) -> None:
    """All replicas had it: after the primary's death no replica knows the session."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as watched:
        store = RedisStore(as_app(watched.url), wait_replicas=2)
        manager = SessionManager(store, manager_on(store).keyring)
        async with client_of(doing(manager=manager)) as browser:
            token = await signed_in(browser)
            assert (await browser.get("/do?drop=user_id")).status_code == 200
        before = watched.primary
        before.kill()
        watched.wait_promoted(before)
        after = RedisStore(as_app(watched.url))
        assert await manager_on(after).load(token) == {}
        with pytest.raises(ReplicationError):
            await _until_answered(store)
        for each in (store, after):
            await each.close()


async def _until_answered(store: RedisStore) -> None:
    """Connections to the dead primary are told apart from what the new one says."""
    for _ in range(3):
        try:
            await store.commit(new_id(), None, record(), MINUTE)
        except ReplicationError:
            raise
        except StoreError:
            continue
