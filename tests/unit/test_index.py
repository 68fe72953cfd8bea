"""The principal's index, over a store in memory: index first, record second, and it heals."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import pytest

from redis_sessions import (
    Answer,
    Commit,
    Event,
    Keyring,
    MemoryStore,
    Session,
    SessionGoneError,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.outcome import Outcome
from redis_sessions.state import LONGEST
from redis_sessions.stores.protocols import Entered, Seat
from redis_sessions.testing import Clock, store_session
from tests.unit.test_manager import DAY, Setting, token_of

ALICE: Final = {"user_id": "alice"}
DUE: Final = 301
"""Seconds after which a touch is due."""


class Watched(MemoryStore):
    """Writes down what it is asked to write, and is away for what a test names."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.asked: list[str] = []
        self.away: set[str] = set()

    def _note(self, what: str) -> None:
        if what in self.away:
            raise StoreUnavailableError(f"no {what} today")
        self.asked.append(what)

    async def commit(self, id: str, expected: bytes | None, value: bytes, ttl: int) -> Commit:
        self._note("commit")
        return await super().commit(id, expected, value, ttl)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> bool:
        self._note("end")
        return await super().end(id, tombstone, ttl)

    async def enter(self, *arguments: Any, **named: Any) -> Entered:
        self._note("enter")
        return await super().enter(*arguments, **named)

    async def touch(self, *arguments: Any, **named: Any) -> tuple[Seat, int]:
        self._note("touch")
        return await super().touch(*arguments, **named)

    async def mark(self, key: str, id: str, *, ttl: int) -> bool:
        self._note("mark")
        return await super().mark(key, id, ttl=ttl)


class Watching(Setting):
    """A setting whose store is watched."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.watched = Watched(self.clock)
        self.manager = SessionManager(
            self.watched,
            Keyring(generate_key()),
            clock=self.clock,
            on_event=self.events.append,
            **options,
        )


@pytest.fixture
def at() -> Watching:
    return Watching()


async def changed(at: Setting, token: str | None, status: int = 200, **data: Any) -> Answer:
    """A request that sets these keys."""
    session = await at.load(token)
    session.update(data)
    return await at.commit(session, status)


async def visited(at: Setting, token: str) -> Answer:
    """A request that reads."""
    return await at.commit(await at.load(token))


async def lose_the_end(at: Setting, token: str, who: str = "alice") -> None:
    """A revocation whose mark holds, and whose end of the record a failover lost."""
    await at.manager.index.mark(who, token[:20])


async def lose_the_entry(at: Setting, who: str = "alice") -> None:
    """The index's server lost this principal's index."""
    for key in at.manager.keyring.keys:
        at_store: Any = at.manager.store
        at_store._indexes.pop(key.index(who), None)


async def ids(at: Setting, who: str = "alice") -> set[str]:
    return {info.id for info in await at.manager.sessions_of(who)}


# -- index first, record second


@pytest.mark.parametrize(
    ("act", "asked"),
    [
        ({"set": "bob"}, ["enter", "commit", "mark", "end"]),
        ({"drop": True}, ["mark", "commit"]),
        ({"clear": True}, ["mark", "end"]),
        ({"authenticated": True}, ["touch", "commit"]),
        ({"due": True}, ["touch", "commit"]),
        ({"due": True, "data": 1}, ["touch", "commit"]),
    ],
    ids=["switch", "sign out", "clear", "authenticated", "touch", "change"],
)
async def test_the_index_is_written_first(
    at: Watching, act: dict[str, Any], asked: list[str]
) -> None:
    """Whatever is done to a signed-in session, its index is written before its record."""
    token = await at.begin(ALICE)
    assert at.watched.asked == ["enter", "commit"]
    at.watched.asked.clear()
    if act.get("due"):
        at.clock.advance(DUE)
    session = await at.load(token)
    if "set" in act:
        session["user_id"] = act["set"]
    if "data" in act:
        session["data"] = act["data"]
    if "drop" in act:
        del session["user_id"]
    if "clear" in act:
        session.clear()
    if "authenticated" in act:
        session.authenticated()
    await at.commit(session)
    assert at.watched.asked == asked


async def test_nobody_has_no_index(at: Watching) -> None:
    """An anonymous session is written, touched, rotated and ended without an index."""
    token = await at.begin({"cart": 1})
    at.clock.advance(DUE)
    await visited(at, token)
    session = await at.load(token)
    session.rotate()
    token = token_of(await at.commit(session))
    session = await at.load(token)
    session.clear()
    await at.commit(session)
    assert set(at.watched.asked) == {"commit", "end"}


@pytest.mark.parametrize("away", ["enter", "commit"])
async def test_a_sign_in_that_failed_leaves_the_cart(at: Watching, away: str) -> None:
    """Where the index or the record can't be written, nobody is signed in; the cart is intact."""
    token = await at.begin({"cart": 1})
    at.watched.away.add(away)
    with pytest.raises(StoreUnavailableError):
        await changed(at, token, user_id="alice")
    at.watched.away.clear()
    assert await at.data(token) == {"cart": 1}
    assert await ids(at) == set()


async def test_a_sign_out_that_failed_is_made_good(at: Watching) -> None:
    """The mark was written and the end wasn't: the session isn't listed, and its touch ends it."""
    token = await at.begin(ALICE)
    at.watched.away.add("end")
    session = await at.load(token)
    session.clear()
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)
    at.watched.away.clear()
    assert await ids(at) == set()
    at.clock.advance(DUE)
    await visited(at, token)
    assert await at.data(token) == {}


async def test_a_touch_that_fails_fails_no_read(at: Watching) -> None:
    """Reading works while the index is away, and the session isn't renewed past it."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    at.watched.away.add("touch")
    assert (await visited(at, token)).outcome is Outcome.NOTHING
    assert at.watched.asked == ["enter", "commit"]
    assert await at.data(token) == ALICE


async def test_a_change_whose_touch_fails_is_unknown(at: Watching) -> None:
    """A change that would renew the session isn't stored where the index can't be asked."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    at.watched.away.add("touch")
    with pytest.raises(StoreUnavailableError):
        await changed(at, token, a=1)
    assert await at.data(token) == ALICE


# -- a sign-in that a revocation overtook


@pytest.mark.parametrize("cart", [True, False], ids=["with a cart", "without"])
async def test_a_sign_in_that_was_overtaken_is_refused(at: Watching, cart: bool) -> None:
    """revoke_all while a sign-in is under way: 503, an event, no session, the cart intact."""
    token = await at.begin({"cart": 1}) if cart else None
    session = await at.load(token)
    session["user_id"] = "alice"
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    with pytest.raises(StoreUnavailableError) as raised:
        await at.commit(session)
    assert raised.value.reason == "server"
    assert at.reported("refused") == ["revoked meanwhile"]
    assert await at.data(token) == ({"cart": 1} if cart else {})
    assert await ids(at) == set()
    at.clock.advance(1)
    again = await changed(at, token, user_id="alice")
    assert await at.data(token_of(again)) == {**({"cart": 1} if cart else {}), "user_id": "alice"}


async def test_a_sign_in_of_somebody_else_is_not_refused(at: Watching) -> None:
    """Alice's revocation is nothing to Bob."""
    session = await at.load(None)
    session["user_id"] = "bob"
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    assert (await at.commit(session)).token is not None


# -- what a failover lost


async def test_a_lost_end_takes_effect_at_the_touch(at: Watching) -> None:
    """The tombstone was lost: the session reads until its touch is due, and ends there."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    assert (await visited(at, token)).outcome is Outcome.NOTHING
    assert await at.data(token) == ALICE
    at.clock.advance(DUE)
    answer = await visited(at, token)
    assert (answer.token, answer.expire) == (None, False)
    assert await at.data(token) == {}
    assert at.reported("ended") == ["revoked"]
    assert "touched" not in [event.name for event in at.events]


async def test_changes_do_not_keep_a_revoked_session_alive(at: Watching) -> None:
    """A session that is busy changing data ends when its touch is due; the change is dropped."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    outcomes: list[Outcome] = []
    for count in range(4):
        at.clock.advance(100)
        outcomes.append((await changed(at, token, count=count)).outcome)
    assert outcomes == [Outcome.CHANGE] * 3 + [Outcome.DROP]
    assert at.reported("dropped") == ["revoked"]
    assert await at.data(token) == {}


async def test_updates_do_not_keep_a_revoked_session_alive(at: Watching) -> None:
    """update() renews the session when a touch is due: it asks the index before."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    with pytest.raises(SessionGoneError):
        await at.manager.update(session, lambda data: data.update(count=1))
    assert await at.data(token) == {}


async def test_rotations_do_not_keep_a_revoked_session_alive(at: Watching) -> None:
    """rotate() renews the session when a touch is due: it asks the index before."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    session.rotate()
    answer = await at.commit(session)
    assert (answer.outcome, answer.token) == (Outcome.DROP, None)
    assert await at.data(token) == {}


async def test_saves_do_not_keep_a_revoked_session_alive(at: Watching) -> None:
    """save() asks the index when a touch is due, and says that the session is gone."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    session["a"] = 1
    with pytest.raises(SessionGoneError):
        await session.save()
    assert await at.data(token) == {}


async def test_a_longer_life_is_asked_for_at_the_index(at: Watching) -> None:
    """expire_in() asks the index whatever is due: a revoked session gets no longer life."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    session = await at.load(token)
    session.expire_in(100 * DAY)
    answer = await at.commit(session)
    assert (answer.outcome, answer.token) == (Outcome.DROP, None)
    assert await at.data(token) == {}


async def test_a_lost_entry_is_written_again(at: Watching) -> None:
    """The entry was lost, and nothing speaks against the session: its touch enters it."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    assert await ids(at) == set()
    at.clock.advance(DUE)
    assert (await visited(at, token)).outcome is Outcome.TOUCH
    assert await ids(at) == {token[:20]}


async def test_a_lost_entry_stays_lost_after_a_revocation(at: Watching) -> None:
    """... unless all sessions were revoked since it signed in."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    at.clock.advance(1)
    assert await at.manager.revoke_all("alice") == 0
    assert await at.data(token) == ALICE
    at.clock.advance(DUE)
    await visited(at, token)
    assert await at.data(token) == {}


async def test_what_is_kept_lives_without_its_entry(at: Watching) -> None:
    """revoke_all(keep=…) enters the session that it keeps, if its entry was lost."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    await at.manager.revoke_all("alice", keep=token[:20])
    at.clock.advance(DUE)
    assert (await visited(at, token)).outcome is Outcome.TOUCH
    assert await ids(at) == {token[:20]}


# -- proving again who one is


async def test_authenticated_is_in_the_index(at: Watching) -> None:
    """The index, the record and the list of sessions have the same, new time."""
    token = await at.begin(ALICE)
    at.clock.advance(1000)
    session = await at.load(token)
    session.authenticated()
    token = token_of(await at.commit(session))
    (info,) = await at.manager.sessions_of("alice")
    now = datetime.fromtimestamp(at.clock.now, info.authenticated_at.tzinfo)
    assert info.authenticated_at == (await at.load(token)).authenticated_at == now


@pytest.mark.parametrize("end_lost", [False, True])
async def test_authenticated_after_a_revocation(at: Watching, end_lost: bool) -> None:
    """Who proves again who they are is signed in: under a new id, with this request's keys."""
    token = await at.begin({**ALICE, "old": 1})
    session = await at.load(token)
    if end_lost:
        await lose_the_end(at, token)
    else:
        assert await at.manager.revoke(token[:20], principal="alice")
    session.update(user_id="alice", new=2)
    session.authenticated()
    new = token_of(await at.commit(session))
    assert new[:20] != token[:20]
    data = await at.data(new)
    assert data["new"] == 2
    assert "old" not in data
    assert await at.data(token) == {}


async def test_authenticated_signs_in_after_a_revocation(at: Watching) -> None:
    """... as the same principal, though the request itself didn't set who that is."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    await at.manager.revoke(token[:20], principal="alice")
    session.authenticated()
    new = token_of(await at.commit(session))
    assert (await at.load(new)).principal == "alice"
    assert await ids(at) == {new[:20]}


async def test_authenticated_is_overtaken_by_revoke_all(at: Watching) -> None:
    """revoke_all while a re-authentication is under way refuses it, as it does a sign-in."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    session.authenticated()
    at.clock.advance(1)
    await at.manager.revoke_all("alice")
    with pytest.raises(StoreUnavailableError):
        await at.commit(session)
    assert await ids(at) == set()


# -- lifetimes


async def expiry(at: Setting) -> int:
    (info,) = await at.manager.sessions_of("alice")
    return int(info.expires_at.timestamp())


async def test_a_longer_life_is_the_entrys_too(at: Watching) -> None:
    """expire_in() renews the entry's time: it isn't pruned before its session ends."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    session.expire_in(100 * DAY)
    token = token_of(await at.commit(session))
    assert await expiry(at) == int(at.clock.now) + 100 * DAY
    at.clock.advance(99 * DAY)
    assert await ids(at) == {token[:20]}
    assert await at.manager.revoke_all("alice") == 1


async def test_a_life_chosen_at_the_sign_in(at: Watching) -> None:
    """Remember me: the entry lasts as long as the session."""
    session = await at.load(None)
    session["user_id"] = "alice"
    session.expire_in(60 * DAY)
    await at.commit(session)
    assert await expiry(at) == int(at.clock.now) + 60 * DAY


async def test_a_mark_lasts_as_long_as_the_session(at: Watching) -> None:
    """A session whose end was lost can't outlive the mark that ends it."""
    session = await at.load(None)
    session["user_id"] = "alice"
    session.expire_in(LONGEST)
    token = token_of(await at.commit(session))
    await at.manager.revoke(token[:20], principal="alice")
    at.clock.advance(LONGEST - 1)
    key = at.manager.keyring.primary.index("alice")
    seat, _ = await at.watched.touch(key, token[:20], authenticated=0, ttl=0, descriptor=b"")
    assert seat is Seat.ENDED


async def test_an_expired_session_is_not_listed(at: Watching) -> None:
    """Neither one that wasn't used for the idle timeout, nor one past its lifetime."""
    await at.begin(ALICE)
    at.clock.advance(7 * DAY + 1)
    assert await ids(at) == set()
    assert await at.manager.revoke_all("alice") == 0


# -- a key rolls out

OLD, NEW = generate_key(), generate_key()


class Rollout:
    """Three deployments over one store: the old key, [new, old], and the new one alone."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.store = MemoryStore(clock=self.clock)
        self.before = self._manager(OLD)
        self.during = self._manager(NEW, OLD)
        self.after = self._manager(NEW)

    def _manager(self, *keys: str) -> SessionManager:
        return SessionManager(
            self.store, Keyring(*keys), clock=self.clock, on_event=self.events.append
        )


async def seen(manager: SessionManager, token: str) -> Session:
    """A request that reads; the session as it is afterwards."""
    await manager.commit(await manager.load(token))
    return await manager.load(token)


async def test_a_rollout_signs_nobody_out() -> None:
    """A touch under [new, old] seals and enters again under the new key, which then suffices."""
    roll = Rollout()
    token = await store_session(roll.before, ALICE)
    assert [i.id for i in await roll.during.sessions_of("alice")] == [token[:20]]
    roll.clock.advance(DUE)
    assert (await seen(roll.during, token)).principal == "alice"
    assert (await seen(roll.after, token)).principal == "alice"
    assert [i.id for i in await roll.after.sessions_of("alice")] == [token[:20]]


async def test_a_mark_under_the_old_key_counts() -> None:
    """Marked by a process that has the old key, the end lost: it ends under [new, old]."""
    roll = Rollout()
    token = await store_session(roll.before, ALICE)
    await roll.before.index.mark("alice", token[:20])
    roll.clock.advance(DUE)
    assert (await seen(roll.during, token)).principal is None


@pytest.mark.parametrize("revoke_all", [False, True])
async def test_a_revocation_under_both_keys(revoke_all: bool) -> None:
    """Revoked under [new, old], the end lost: it ends under the old key and under the new."""
    roll = Rollout()
    tokens = [await store_session(roll.before, ALICE) for _ in range(2)]
    stored = {token: await roll.store.load(token[:20]) for token in tokens}
    roll.clock.advance(1)
    if revoke_all:
        assert await roll.during.revoke_all("alice") == 2
    else:
        assert await roll.during.revoke(tokens[0][:20], principal="alice")
        assert await roll.during.revoke(tokens[1][:20], principal="alice")
    roll.clock.advance(DUE)
    for token, record in stored.items():
        assert record is not None
        await roll.store.commit(token[:20], None, record, 10**9)  # the failover brings it back
    assert (await seen(roll.before, tokens[0])).principal is None
    assert (await seen(roll.during, tokens[1])).principal is None


async def test_a_sign_out_under_both_keys() -> None:
    """Signed out under [new, old], the end lost: it ends under the old key too."""
    roll = Rollout()
    token = await store_session(roll.before, ALICE)
    record = await roll.store.load(token[:20])
    session = await roll.during.load(token)
    session.clear()
    await roll.during.commit(session)
    roll.clock.advance(DUE)
    assert record is not None
    await roll.store.commit(token[:20], None, record, 10**9)
    assert (await seen(roll.before, token)).principal is None


@pytest.mark.parametrize("touched", [False, True])
async def test_what_is_kept_survives_a_rollout(touched: bool) -> None:
    """revoke_all(keep=…) under [new, old] keeps a session that signed in under the old key."""
    roll = Rollout()
    kept, other = [await store_session(roll.before, ALICE) for _ in range(2)]
    if touched:
        roll.clock.advance(DUE)
        await seen(roll.during, kept)
    assert await roll.during.revoke_all("alice", keep=kept[:20]) == 1
    assert (await roll.during.load(other)).principal is None
    for manager in (roll.during, roll.after) if touched else (roll.before, roll.during, roll.after):
        roll.clock.advance(DUE)
        assert (await seen(manager, kept)).principal == "alice"


async def test_a_revocation_under_the_old_key_counts() -> None:
    """revoke_all under the old key alone, a touch under [new, old]: overtaken is overtaken."""
    roll = Rollout()
    token = await store_session(roll.before, ALICE)
    roll.store._indexes.clear()  # pyright: ignore[reportPrivateUsage] - as a failover would
    roll.clock.advance(1)
    await roll.before.revoke_all("alice")
    roll.clock.advance(DUE)
    assert (await seen(roll.during, token)).principal is None


async def test_a_revocation_during_a_rollout_refuses_sign_ins() -> None:
    """revoke_all by a process of the new deployment refuses a sign-in that one of the old began."""
    roll = Rollout()
    both = SessionManager(roll.store, Keyring(OLD, NEW), clock=roll.clock)
    session = await both.load(None)
    session["user_id"] = "alice"
    roll.clock.advance(1)
    await roll.during.revoke_all("alice")
    with pytest.raises(StoreUnavailableError):
        await both.commit(session)
