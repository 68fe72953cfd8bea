"""Sessions whose writes too few replicas confirm: what HTTP and the manager make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from redis_sessions import Commit, RedisStore, ReplicationError, SessionManager, StoreError, Written
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from redis_sessions.session.session import Session, services_of
from redis_sessions.testing import Clock, store_session, topology
from tests.integration.wait_replicas.records import MINUTE, new_id, record
from tests.support.apps import client_of, doing, manager_on, signed_in, token_in
from tests.support.servers import app_user, as_app


@pytest.fixture
async def every(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    """Ordinary changes and touches wait, too."""
    store = RedisStore(
        running.url, prefix=prefix, wait_replicas=2, wait_timeout=0.1, wait_for="all"
    )
    yield store
    await store.close()


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
    """All sessions have ended all the same."""
    manager = manager_on(strict)
    tokens = [await store_session(manager, {"user_id": "bob"}) for _ in range(3)]
    replica = running.replicas[0]
    replica.pause()
    try:
        with pytest.raises(ReplicationError):
            await manager.revoke_all("bob")
    finally:
        replica.resume()
        running.wait_ready()
    assert manager.counts["ended: revoked"] == 3
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
        await services_of(session).save(session)
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


async def test_a_plain_change_that_too_few_have(
    short: topology.Topology, every: RedisStore
) -> None:
    """The change is known to be stored: the next one crosses nothing."""
    lax = manager_on(short.url, every.prefix)
    manager = manager_on(every, on_conflict="error")
    token = await store_session(lax, {"n": 0})
    session = await manager.load(token)
    for number in (1, 2):
        session["n"] = number
        with pytest.raises(ReplicationError):
            await manager.commit(session)
        assert await manager.load(token) == {"n": number}
    await lax.close()


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("change", None),  # an error
        ("rotate", Outcome.ROTATE),
        ("authenticated", Outcome.REAUTHENTICATE),
    ],
)
async def test_a_touch_never_fails_a_write(
    short: topology.Topology, every: RedisStore, what: str, outcome: Outcome | None
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
        with pytest.raises(ReplicationError):
            await manager.commit(session)
        assert await manager.load(token) == {"user_id": "alice", "n": 1}
    else:
        getattr(session, what)()
        assert (await manager.commit(session)).outcome is outcome
        assert await manager.load(token) == {}
    await lax.close()


async def test_an_acknowledged_sign_out_survives(server_binary: Path) -> None:
    """All replicas had it: after the primary's death no replica knows the session."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as watched:
        store = RedisStore(as_app(watched.url), wait_replicas=2)
        manager = SessionManager(store, backend_of(manager_on(store)).keyring)
        async with client_of(doing(manager=manager)) as browser:
            token = await signed_in(browser)
            assert (await browser.get("/do?drop=user_id")).status_code == 200
        before = watched.primary
        before.kill()
        watched.wait_promoted(before)
        after = RedisStore(as_app(watched.url))
        assert await manager_on(after).load(token) == {}
        assert (await _first_answer(store)).shortfall
        for each in (store, after):
            await each.close()


async def _first_answer(store: RedisStore) -> Written[Commit]:
    """Connections to the dead primary are told apart from what the new one says."""
    for _ in range(3):
        with suppress(StoreError):
            return await store.commit(new_id(), None, record(), MINUTE)
    raise AssertionError("the new primary doesn't answer")
