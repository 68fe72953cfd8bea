"""Sessions revoked, one or all, over a store in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import (
    Keyring,
    MemoryStore,
    ReplicationError,
    SessionManager,
    StoreUnavailableError,
    Written,
    generate_key,
)
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from redis_sessions.testing import store_session
from tests.support.apps import app_of, client_of
from tests.unit.setting import ALICE, DUE, Setting, token_of
from tests.unit.visits import alive, ids, in_request, signed_in, visit

# -- revoke


async def test_revoking_one(at: Setting) -> None:
    """That one ends, once; the others don't; it is reported."""
    one, other = await signed_in(at), await signed_in(at)
    at.events.clear()
    assert await at.manager.revoke(one[:20], principal="alice") is True
    assert await alive(at, one, other) == [False, True]
    assert await at.manager.revoke(one[:20], "alice") is False
    assert [(e.reason, e.id) for e in at.events if e.name == "ended"] == [("revoked", one[:20])]


@pytest.mark.parametrize("whose", ["bob's", "nobody's", "anonymous", "a key of ours"])
async def test_revoking_what_is_somebody_elses(at: Setting, whose: str) -> None:
    """An id that isn't the principal's: False, and nothing happens to it, however often."""
    mine, bobs = await signed_in(at), await signed_in(at, "bob")
    nobodys = await at.begin({"cart": 1})
    id = {
        "bob's": bobs[:20],
        "anonymous": nobodys[:20],
        "nobody's": "x" * 20,
        "a key of ours": f"of:{backend_of(at.manager).keyring.primary.index('alice')}",
    }[whose]
    for _ in range(2):
        assert await at.manager.revoke(id, principal="alice") is False
    assert await alive(at, mine, bobs, nobodys) == [True, True, True]
    assert await ids(at, "bob") == [bobs[:20]]
    assert at.reported("ended") == []


async def test_revoking_takes_effect_in_flight(at: Setting) -> None:
    """A request that was under way writes nothing any more, and sends no cookie."""
    token = await signed_in(at)
    session = await at.load(token)
    await at.manager.revoke(token[:20], principal="alice")
    session["a"] = 1
    answer = await at.commit(session)
    assert (answer.outcome, answer.token, answer.expire) == (Outcome.DROP, None, False)
    assert await alive(at, token) == [False]


async def test_after_a_revocation_a_browser_starts_afresh(at: Setting) -> None:
    """The revoked browser opens the login form: what that stores is kept, under a new id."""
    token = await signed_in(at)
    await at.manager.revoke(token[:20], principal="alice")
    session = await at.load(token)
    session["csrf"] = "x"
    new = token_of(await at.commit(session))
    assert await at.data(new) == {"csrf": "x"}


async def test_revoking_ones_own(at: Setting) -> None:
    """It counts as clear(): nothing is left, and the cookie expires in that request."""
    token = await signed_in(at)
    session = await at.load(token)
    with in_request(session):
        assert await at.manager.revoke(token[:20], principal="alice") is True
    assert (dict(session), session.is_new, session.id) == ({}, True, None)
    answer = await at.commit(session)
    assert (answer.token, answer.expire) == (None, True)


async def test_revoking_ones_own_and_going_on(at: Setting) -> None:
    """What the request writes afterwards begins another session."""
    token = await signed_in(at)
    session = await at.load(token)
    with in_request(session):
        await at.manager.revoke(token[:20], principal="alice")
    session["message"] = "bye"
    answer = await at.commit(session)
    assert await at.data(token_of(answer)) == {"message": "bye"}


async def test_revoking_ones_own_that_ended_elsewhere(at: Setting) -> None:
    """Only the request that ended the session expires the cookie: it may be a newer one by now."""
    token = await signed_in(at)
    session, other = await at.load(token), await at.load(token)
    other.clear()
    other["user_id"] = "alice"
    newer = token_of(await at.commit(other))
    with in_request(session):
        assert await at.manager.revoke(token[:20], principal="alice") is False
    answer = await at.commit(session)
    assert (answer.token, answer.expire) == (None, False)
    assert await alive(at, newer) == [True]


# -- revoke_all


async def test_revoking_all(at: Setting) -> None:
    """All end, once; another's don't."""
    tokens = [await signed_in(at) for _ in range(5)]
    bobs = await signed_in(at, "bob")
    at.events.clear()
    assert await at.manager.revoke_all("alice") == 5
    assert await alive(at, *tokens, bobs) == [False] * 5 + [True]
    assert await ids(at) == []
    assert await at.manager.revoke_all("alice") == 0
    assert at.reported("ended") == ["revoked"] * 5
    assert [(e.reason, e.id) for e in at.events if e.name == "revoked"] == [("all", None)] * 2


async def test_revoking_all_others(at: Setting) -> None:
    """keep= lives, and goes on living."""
    keep, *others = [await signed_in(at) for _ in range(4)]
    assert await at.manager.revoke_all("alice", keep=keep[:20]) == 3
    assert await alive(at, keep, *others) == [True, False, False, False]
    assert await ids(at) == [keep[:20]]
    at.clock.advance(DUE)
    await visit(at, keep)
    assert await alive(at, keep) == [True]
    assert at.reported("revoked") == ["all but one"]


async def test_revoking_all_others_of_ones_own(at: Setting) -> None:
    """Sign out everywhere else: the request's own session isn't touched by it."""
    keep, other = await signed_in(at), await signed_in(at)
    session = await at.load(keep)
    with in_request(session):
        assert await at.manager.revoke_all("alice", keep=session.id) == 1
    answer = await at.commit(session)
    assert (answer.token, answer.expire) == (None, False)
    assert await alive(at, keep, other) == [True, False]


async def test_keep_is_no_way_to_take_anothers(at: Setting) -> None:
    """An id of somebody else as keep=: it becomes none of the principal's."""
    await signed_in(at)
    bobs = await signed_in(at, "bob")
    await at.manager.revoke_all("alice", keep=bobs[:20])
    assert await ids(at) == []
    assert await at.manager.revoke(bobs[:20], principal="alice") is False
    assert await alive(at, bobs) == [True]


async def test_revoking_all_ends_ones_own(at: Setting) -> None:
    """It counts as clear() in the request that asks for it."""
    token, other = await signed_in(at), await signed_in(at)
    session = await at.load(token)
    with in_request(session):
        assert await at.manager.revoke_all("alice") == 2
    answer = await at.commit(session)
    assert (answer.token, answer.expire) == (None, True)
    assert await alive(at, token, other) == [False, False]


@pytest.mark.parametrize("before", [None, {"cart": 1}, ALICE, {"user_id": "bob"}])
async def test_password_reset(at: Setting, before: dict[str, Any] | None) -> None:
    """revoke_all and then a sign-in, in one request: signed in, and nobody else is."""
    thief = await signed_in(at)
    token = None if before is None else await at.begin(before)
    at.clock.advance(10)
    session = await at.load(token)
    at.clock.advance(1)  # the request takes its time
    with in_request(session):
        await at.manager.revoke_all("alice")
    at.clock.advance(1)
    session["user_id"] = "alice"
    new = token_of(await at.commit(session))
    assert new[:20] != (token or "")[:20]
    assert await alive(at, thief, new) == [False, True]
    assert await ids(at) == [new[:20]]
    at.clock.advance(DUE)
    await visit(at, new)
    assert await alive(at, new) == [True]


async def test_password_reset_overtaken_by_another(at: Setting) -> None:
    """... unless another revocation came since: then the sign-in is refused."""
    session = await at.load(None)
    with in_request(session):
        await at.manager.revoke_all("alice")
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    session["user_id"] = "alice"
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)


async def test_child_tasks_and_threads_are_the_request(at: Setting) -> None:
    """revoke_all in a task, or a thread, that the request began counts as its own."""
    token = await signed_in(at)
    for again in range(2):
        session = await at.load(token)
        with in_request(session):
            if again:
                count = await asyncio.to_thread(lambda: asyncio.run(at.manager.revoke_all("alice")))
            else:
                count = await asyncio.create_task(at.manager.revoke_all("alice"))
        assert count == 1
        at.clock.advance(1)
        session["user_id"] = "alice"
        token = token_of(await at.commit(session))
        assert await ids(at) == [token[:20]]


async def test_a_revocation_that_failed_is_repeated(at: Setting) -> None:
    """Marked, but not all ended: to call it again ends the rest, and counts what it ended."""

    class Failing(MemoryStore):
        left = 2

        async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
            if self.left == 0:
                raise StoreUnavailableError("away")
            self.left -= 1
            return await super().end(id, tombstone, ttl)

    store = Failing(clock=at.clock)
    manager = SessionManager(store, Keyring(generate_key()), clock=at.clock)
    tokens = [await store_session(manager, ALICE) for _ in range(5)]
    with pytest.raises(StoreUnavailableError):
        await manager.revoke_all("alice")
    store.left = 100
    assert await manager.revoke_all("alice") == 3
    assert [dict(await manager.load(token)) for token in tokens] == [{}] * 5


async def test_a_revocation_that_replicas_lack_is_repeated_with_ones_own_end(at: Setting) -> None:
    """A second call in one request asks the replicas again, also for the request's own end."""
    ends = list[str]()

    class Short(MemoryStore):
        async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
            ends.append(id)
            return (await super().end(id, tombstone, ttl))._replace(shortfall="too few")

    manager = SessionManager(Short(clock=at.clock), Keyring(generate_key()), clock=at.clock)
    session = await manager.load(await store_session(manager, ALICE))
    id = session.id
    with in_request(session):
        for _ in range(2):
            with pytest.raises(ReplicationError, match="too few"):
                await manager.revoke_all("alice")
    assert ends == [id, id]
    assert (await manager.commit(session)).expire is True


async def test_a_lazy_request_may_revoke(at: Setting) -> None:
    """lazy=True: listing and revoking need no session of the request's own."""
    token = await at.begin({"user_id": "alice"})

    async def endpoint(request: Request) -> JSONResponse:
        shown = await at.manager.sessions_of("alice")
        return JSONResponse([len(shown), await at.manager.revoke_all("alice")])

    app = app_of(Route("/", endpoint), manager=at.manager, lazy=True)
    async with client_of(app, token) as browser:
        assert (await browser.get("/")).json() == [1, 1]
    assert await at.data(token) == {}
