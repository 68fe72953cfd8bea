"""Sessions listed, revoked and bounded in number, over a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from redis_sessions import (
    Commit,
    ConfigurationError,
    Keyring,
    MemoryStore,
    Session,
    SessionError,
    SessionInfo,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.outcome import Outcome
from redis_sessions.session import serving, state_of
from redis_sessions.state import Peer
from redis_sessions.stores.protocols import Entry
from redis_sessions.testing import Clock, store_session
from tests.integration.apps import app_of, client_of
from tests.unit.test_manager import Setting, token_of

ALICE: Final = {"user_id": "alice"}
DUE: Final = 301
FIREFOX: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


@pytest.fixture
def at() -> Setting:
    return Setting()


@contextmanager
def in_request(*sessions: Session) -> Generator[None]:
    """As the middleware has it while a request with these sessions is served."""
    token = serving.set(sessions)
    try:
        yield
    finally:
        serving.reset(token)


class Visiting:
    """A request, as far as a session asks for it."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def peer(self) -> Peer:
        return self._peer

    def raises(self, error: SessionError) -> SessionError:
        return error


async def signed_in(at: Setting, user: object = "alice", peer: Peer | None = None) -> str:
    session = await at.load(None)
    session["user_id"] = user
    if peer is not None:
        state_of(session).visit = Visiting(peer)
    return token_of(await at.commit(session))


async def visit(at: Setting, token: str) -> None:
    await at.commit(await at.load(token))


async def ids(at: Setting, who: str = "alice") -> list[str]:
    return [info.id for info in await at.manager.sessions_of(who)]


async def alive(at: Setting, *tokens: str) -> list[bool]:
    return [bool(await at.data(token)) for token in tokens]


# -- sessions_of


async def test_nobody_has_no_sessions(at: Setting) -> None:
    """A principal that never signed in has none; revoking nothing ends nothing."""
    assert await at.manager.sessions_of("alice") == []
    assert await at.manager.revoke_all("alice") == 0
    assert await at.manager.revoke("x" * 20, principal="alice") is False


async def test_what_is_shown(at: Setting) -> None:
    """Created, authenticated, last seen, expiring, address, user agent; the last seen first."""
    began = datetime.fromtimestamp(at.clock.now, UTC)
    first = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    at.clock.advance(100)
    second = await signed_in(at, peer=Peer("2001:db8::1", SAFARI))
    newest, oldest = await at.manager.sessions_of("alice")
    assert (newest.id, newest.address, newest.user_agent) == (second[:20], "2001:db8::1", SAFARI)
    assert oldest == SessionInfo(
        id=first[:20],
        current=False,
        authenticated_at=began,
        last_seen_at=began,
        expires_at=began + timedelta(days=14),
        created_at=began,
        address="192.0.2.1",
        user_agent=FIREFOX,
    )
    at.clock.advance(DUE)
    await visit(at, first)
    newest, _ = await at.manager.sessions_of("alice")
    seen = began + timedelta(seconds=100 + DUE)
    assert (newest.id, newest.last_seen_at, newest.created_at) == (first[:20], seen, began)
    assert newest.address == "192.0.2.1"  # nobody said who asked: what was known stays


async def test_a_touch_tells_from_where(at: Setting) -> None:
    """The address and the browser are those of the last touch."""
    token = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    at.clock.advance(DUE)
    session = await at.load(token)
    state_of(session).visit = Visiting(Peer("192.0.2.2", SAFARI))
    await at.commit(session)
    (info,) = await at.manager.sessions_of("alice")
    assert (info.address, info.user_agent) == ("192.0.2.2", SAFARI)


async def test_the_current_one(at: Setting) -> None:
    """In a request its own session is marked as the current one."""
    token, _ = await signed_in(at), await signed_in(at)
    session = await at.load(token)
    with in_request(session):
        shown = await at.manager.sessions_of("alice")
    assert {info.id: info.current for info in shown} == {
        info.id: info.id == token[:20] for info in shown
    }
    assert len(shown) == 2


async def test_another_managers_session_is_not_the_current_one(at: Setting) -> None:
    """Two managers serve one request: each knows its own session only."""
    other = SessionManager(at.store, at.manager.keyring, clock=at.clock)
    token = await signed_in(at)
    session = await other.load(token)
    with in_request(session):
        (info,) = await at.manager.sessions_of("alice")
        await at.manager.revoke_all("alice")
    assert not info.current
    assert session == ALICE


@pytest.mark.parametrize(
    ("agent", "browser", "system"),
    [
        (FIREFOX, "Firefox 140", "Linux"),
        (SAFARI, "Mobile Safari 17", "iOS 17"),
        ("no browser at all", None, None),
        ("", None, None),
        (None, None, None),
    ],
    ids=["Firefox", "Safari", "unknown", "empty", "none"],
)
def test_the_browser_in_words(agent: str | None, browser: str | None, system: str | None) -> None:
    """The browser and the system are told in words, or not at all."""
    now = datetime.now(UTC)
    info = SessionInfo(
        id="x" * 20,
        current=False,
        authenticated_at=now,
        last_seen_at=now,
        expires_at=now,
        created_at=None,
        address=None,
        user_agent=agent,
    )
    assert (info.browser, info.system) == (browser, system)


async def test_a_long_user_agent_is_cut(at: Setting) -> None:
    """What a client sends can't fill the index."""
    await signed_in(at, peer=Peer("192.0.2.1", "x" * 10_000))
    (info,) = await at.manager.sessions_of("alice")
    assert info.user_agent == "x" * 256


async def test_dead_entries_are_not_shown(at: Setting) -> None:
    """An entry without a record, or with a tombstone, is no session."""
    lost, ended, live = [await signed_in(at) for _ in range(3)]
    at.store._records.pop(lost[:20])  # pyright: ignore[reportPrivateUsage] - as if lost
    await at.store.end(ended[:20], b"\x01" + bytes(32), 30_000)
    assert await ids(at) == [live[:20]]


DAMAGE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "empty": lambda sealed: b"",
    "truncated": lambda sealed: sealed[:-1],
    "short": lambda sealed: sealed[:10],
    "flipped": lambda sealed: sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:],
    "another key's": lambda sealed: b"\0\0\0\0" + sealed[4:],
    "noise": lambda sealed: b"\xff" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_descriptors(at: Setting, damage: Callable[[bytes], bytes]) -> None:
    """A descriptor that doesn't open leaves its fields empty; the session is listed."""
    token = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    index: Any = at.store._indexes  # pyright: ignore[reportPrivateUsage] - a writer in the store
    (entries,) = index.values()
    entry: Entry = entries.live[token[:20]]
    entries.live[token[:20]] = Entry(
        entry.id, entry.authenticated, entry.seen, entry.expires, damage(entry.descriptor)
    )
    (info,) = await at.manager.sessions_of("alice")
    assert (info.id, info.created_at, info.address, info.user_agent) == (
        token[:20],
        None,
        None,
        None,
    )
    assert (info.browser, info.system) == (None, None)


async def test_a_descriptor_of_another_session(at: Setting) -> None:
    """A descriptor that was moved to another id doesn't open there."""
    one = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    two = await signed_in(at, peer=Peer("192.0.2.2", SAFARI))
    index: Any = at.store._indexes  # pyright: ignore[reportPrivateUsage] - a writer in the store
    (entries,) = index.values()
    moved: Entry = entries.live[two[:20]]
    entries.live[one[:20]] = Entry(
        one[:20], moved.authenticated, moved.seen, moved.expires, moved.descriptor
    )
    shown = {info.id: info.address for info in await at.manager.sessions_of("alice")}
    assert shown == {one[:20]: None, two[:20]: "192.0.2.2"}


@pytest.mark.parametrize(
    "principal",
    [7, "7", UUID(int=7)],
    ids=["int", "str", "UUID"],
)
async def test_principals_in_any_form(at: Setting, principal: str | int | UUID) -> None:
    """A principal is the same whether it is an int, a UUID or their text."""
    await signed_in(at, str(principal))
    assert len(await at.manager.sessions_of(principal)) == 1
    assert await at.manager.revoke_all(principal) == 1


@pytest.mark.parametrize("principal", [None, True, 1.5, ["a"], {"a": 1}])
async def test_what_is_no_principal(at: Setting, principal: Any) -> None:
    """What can't be a principal is refused, rather than taken for somebody without sessions."""
    with pytest.raises(ConfigurationError):
        await at.manager.sessions_of(principal)
    with pytest.raises(ConfigurationError):
        await at.manager.revoke_all(principal)


# -- revoke


async def test_revoking_one(at: Setting) -> None:
    """That one ends, once; the others don't; it is reported."""
    one, other = await signed_in(at), await signed_in(at)
    at.events.clear()
    assert await at.manager.revoke(one[:20], principal="alice") is True
    assert await alive(at, one, other) == [False, True]
    assert await at.manager.revoke(one[:20], principal="alice") is False
    assert [(e.reason, e.id) for e in at.events if e.name == "ended"] == [("revoked", one[:20])]


@pytest.mark.parametrize("whose", ["bob's", "nobody's", "anonymous", "a key of ours"])
async def test_revoking_what_is_somebody_elses(at: Setting, whose: str) -> None:
    """An id that isn't the principal's: False, and nothing happens to it."""
    mine, bobs = await signed_in(at), await signed_in(at, "bob")
    nobodys = await at.begin({"cart": 1})
    id = {
        "bob's": bobs[:20],
        "anonymous": nobodys[:20],
        "nobody's": "x" * 20,
        "a key of ours": f"of:{at.manager.keyring.primary.index('alice')}",
    }[whose]
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

        async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
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


# -- max_sessions


async def test_the_least_recently_seen_goes() -> None:
    """The sign-in above the limit ends the session that was seen first, and says so."""
    at = Setting(max_sessions=3)
    tokens: list[str] = []
    for _ in range(3):
        tokens.append(await signed_in(at))
        at.clock.advance(DUE)
    await visit(at, tokens[0])
    at.events.clear()
    new = await signed_in(at)
    assert await alive(at, *tokens, new) == [True, False, True, True]
    assert [(e.reason, e.id) for e in at.events if e.name == "ended"] == [
        ("evicted", tokens[1][:20])
    ]


async def test_dead_ones_go_first() -> None:
    """An entry without a session makes room before anybody is signed out."""
    at = Setting(max_sessions=2)
    live = await signed_in(at)
    at.clock.advance(DUE)
    dead = await signed_in(at)
    await at.store.end(dead[:20], b"\x01" + bytes(32), 30_000)
    new = await signed_in(at)
    assert await alive(at, live, new) == [True, True]


async def test_signed_out_ones_do_not_count() -> None:
    """Who signs out and in again never reaches the limit."""
    at = Setting(max_sessions=2)
    steady = await signed_in(at)
    for _ in range(5):
        session = await at.load(await signed_in(at))
        session.clear()
        await at.commit(session)
    assert await alive(at, steady) == [True]
    assert "evicted" not in at.reported("ended")


async def test_an_evicted_browser_starts_afresh() -> None:
    """Its next request is nobody's; its late write is dropped, without a cookie."""
    at = Setting(max_sessions=1)
    old = await signed_in(at)
    late = await at.load(old)
    await signed_in(at)
    late["a"] = 1
    assert (await at.commit(late)).outcome is Outcome.DROP
    afresh = await at.load(old)
    afresh["csrf"] = 1
    assert (await at.commit(afresh)).token is not None


async def test_making_room_fails_no_sign_in() -> None:
    """Where the others can't be ended, the sign-in holds all the same."""

    class Stuck(MemoryStore):
        async def mark(self, key: str, id: str, *, ttl: int) -> bool:
            raise StoreUnavailableError("away")

    clock = Clock()
    manager = SessionManager(
        Stuck(clock=clock), Keyring(generate_key()), clock=clock, max_sessions=1
    )
    tokens = [await store_session(manager, ALICE) for _ in range(2)]
    assert [dict(await manager.load(token)) for token in tokens] == [ALICE] * 2


class Gated(MemoryStore):
    """Lets the creation of records wait until a test says so."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        if expected is None:
            self.waiting += 1
            await self.gate.wait()
            self.waiting -= 1
        return await super().commit(id, expected, value, ttl)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - of this very loop, and nothing announces it
        await asyncio.sleep(0)


async def test_a_sign_in_that_is_under_way_is_not_dead() -> None:
    """Entered, but not yet created: another sign-in that makes room doesn't end it."""
    clock = Clock()
    store = Gated(clock)
    manager = SessionManager(store, Keyring(generate_key()), clock=clock, max_sessions=2)
    old = [await store_session(manager, ALICE) for _ in range(2)]
    store.gate.clear()
    one = asyncio.create_task(store_session(manager, ALICE))
    await until(lambda: store.waiting == 1)
    held, store.gate = store.gate, asyncio.Event()
    store.gate.set()
    two = await store_session(manager, ALICE)
    held.set()
    tokens = [await one, two]  # neither is refused
    assert [dict(await manager.load(token)) for token in tokens] == [ALICE] * 2
    assert [dict(await manager.load(token)) for token in old] == [{}] * 2


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("before", [0, 1, 3])
async def test_sign_ins_at_once_never_end_all(limit: int, before: int) -> None:
    """Two sign-ins at once (a double click): neither is refused, and one of them at least lives."""
    clock = Clock()
    store = Gated(clock)
    manager = SessionManager(store, Keyring(generate_key()), clock=clock, max_sessions=limit)
    for _ in range(before):
        await store_session(manager, ALICE)
        clock.advance(1)
    store.gate.clear()
    tasks = [asyncio.create_task(store_session(manager, ALICE)) for _ in range(2)]
    await until(lambda: store.waiting == 2)
    store.gate.set()
    tokens = await asyncio.gather(*tasks)
    clock.advance(DUE)
    for token in tokens:
        await manager.commit(await manager.load(token))
    living = [token for token in tokens if await manager.load(token)]
    assert len(living) >= 1
    assert len(await manager.sessions_of("alice")) <= limit
