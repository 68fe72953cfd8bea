"""Which sessions an application is told of as expired (`on_expired=`), and how often."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    Keyring,
    MemoryStore,
    Session,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.lifecycle.expiry import AT_ONCE, STEP, Expired
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores.schedule import SHARDS, Due, schedule_of, shard_of
from redis_sessions.testing import Clock, store_session
from redis_sessions.testing.conformance import new_id
from tests.unit.setting import ALICE, DAY, DUE, KEY, Setting, token_of

WEEK = 7 * DAY


class Expiring(Setting):
    """A setting whose application is told of sessions that ran out."""

    def __init__(self, **options: Any) -> None:
        self.told: list[Expired] = []
        super().__init__(**{"on_expired": self.told.append, **options})

    async def sweep(self) -> list[Expired]:
        """What one sweep tells."""
        before = len(self.told)
        await sweep(self.manager)
        return self.told[before:]

    async def after(self, seconds: float) -> list[Expired]:
        """What is told that much later."""
        await settle(self.manager)
        self.clock.advance(seconds)
        return await self.sweep()

    async def scheduled(self) -> list[str]:
        """The ids in the schedule, once all is due."""
        await settle(self.manager)
        self.clock.advance(400 * DAY)
        found = [await schedule_of(self.store).due(shard, 1000) for shard in SHARDS]
        return [due.id for entries, _ in found for due in entries]


async def sweep(manager: SessionManager) -> None:
    expiry = backend_of(manager).expiry
    assert expiry is not None
    await expiry.sweep()


async def settle(manager: SessionManager) -> None:
    expiry = backend_of(manager).expiry
    assert expiry is not None
    await expiry.settle()


@pytest.mark.parametrize(("data", "principal"), [(ALICE, "alice"), ({"cart": [3]}, None)])
async def test_a_session_that_ran_out(data: dict[str, Any], principal: str | None) -> None:
    """It is told once, with its id, its principal and its end; and not before."""
    at = Expiring()
    token = await at.begin(data)
    end = datetime.fromtimestamp(at.clock.now + WEEK, UTC)

    assert await at.after(WEEK - 1) == []
    assert await at.after(1) == [Expired(token[:20], principal, end)]
    assert await at.after(WEEK) == []


async def test_an_async_callable() -> None:
    """`on_expired` may be async."""
    told = list[str]()

    async def on_expired(expired: Expired) -> None:
        told.append(expired.id)

    at = Expiring(on_expired=on_expired)
    token = await at.begin(ALICE)
    await at.after(WEEK)

    assert told == [token[:20]]


async def sign_out(at: Setting, token: str, session: Session) -> None:
    session.sign_out()
    await at.commit(session)


async def clear(at: Setting, token: str, session: Session) -> None:
    session.clear()
    await at.commit(session)


async def switch(at: Setting, token: str, session: Session) -> None:
    session.sign_in("bob")
    await at.commit(session)


async def revoke(at: Setting, token: str, session: Session) -> None:
    assert await at.manager.revoke(token[:20], "alice")


async def revoke_all(at: Setting, token: str, session: Session) -> None:
    assert await at.manager.revoke_all("alice") == 1


async def revoke_by(at: Setting, token: str, session: Session) -> None:
    assert await at.manager.revoke_by("sid", "1") == 1


async def evict(at: Setting, token: str, session: Session) -> None:
    at.clock.advance(1)
    await at.begin(ALICE)
    await at.begin(ALICE)


@pytest.mark.parametrize("end", [sign_out, clear, switch, revoke, revoke_all, revoke_by, evict])
async def test_a_session_that_ended_otherwise(
    end: Callable[[Setting, str, Session], Awaitable[None]],
) -> None:
    """Who signs out, is switched, revoked or evicted is never told of as expired."""
    at = Expiring(max_sessions=2)
    session = await at.load(None)
    session.sign_in("alice", aliases={"sid": "1"})
    session["cart"] = [3]
    token = token_of(await at.commit(session))
    await end(at, token, await at.load(token))
    assert await at.data(token) == {}

    told = [each.id for each in await at.after(61)] + [each.id for each in await at.after(WEEK)]

    assert token[:20] not in told
    assert token[:20] not in await at.scheduled()


async def test_an_anonymous_session_that_signs_in() -> None:
    """The visitor's session ended by the sign-in; the one that took its place runs out."""
    at = Expiring()
    before = await at.begin({"cart": [3]})
    session = await at.load(before)
    session.sign_in("alice")
    after = token_of(await at.commit(session))

    told = await at.after(WEEK)

    assert [(each.id, each.principal) for each in told] == [(after[:20], "alice")]


async def test_a_touch_postpones_it() -> None:
    """A session that is used ends later, and is told of then."""
    at = Expiring()
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    await at.request(lambda session: session.get("user_id"), token)
    end = datetime.fromtimestamp(at.clock.now + WEEK, UTC)

    assert await at.after(WEEK - 1) == []
    assert await at.after(1) == [Expired(token[:20], "alice", end)]


async def test_a_change_that_is_a_touch_postpones_it() -> None:
    """So it is if the request that counts as use changes data."""
    at = Expiring()
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    await at.put(token, {"cart": [3]})

    assert await at.after(WEEK - 1) == []
    assert [each.id for each in await at.after(1)] == [token[:20]]


@pytest.mark.parametrize("seconds", [60, 10 * DAY])
async def test_a_life_that_was_set(seconds: int) -> None:
    """`expire_in()` moves the end, forward or back."""
    at = Expiring()
    session = await at.load(await at.begin(ALICE))
    session.expire_in(seconds)
    await at.commit(session)

    assert await at.after(min(seconds, WEEK) - 1) == []
    assert [each.id for each in await at.after(1)] == [session.id]


async def test_a_rotation_keeps_it() -> None:
    """A new token is of the same session, which runs out once."""
    at = Expiring()
    token = await at.begin(ALICE)
    session = await at.load(token)
    session.rotate()
    await at.commit(session)

    assert [each.id for each in await at.after(WEEK)] == [token[:20]]


async def test_a_touch_that_the_schedule_missed() -> None:
    """The record decides: its session is noted anew for the time that it has left."""
    at = Expiring()
    token = await at.begin(ALICE)
    others = Setting()
    others.store, others.clock = at.store, at.clock
    others.manager = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    at.clock.advance(DUE)
    await others.request(lambda session: session.get("user_id"), token)

    assert await at.after(WEEK - 1) == []
    assert [each.id for each in await at.after(1)] == [token[:20]]


async def test_the_option_is_switched_on_later() -> None:
    """A session that was there before is told of if it was touched since."""
    at, before = Expiring(), Setting()
    before.store, before.clock = at.store, at.clock
    before.manager = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    used, unused = await before.begin(ALICE), await before.begin(ALICE)
    at.clock.advance(DUE)
    await at.request(lambda session: session.get("user_id"), used)

    assert [each.id for each in await at.after(WEEK)] == [used[:20]]
    assert await at.data(unused) == {}


async def test_without_the_option() -> None:
    """Nothing is written to the schedule."""
    at = Expiring()
    manager = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    await store_session(manager, ALICE)

    assert backend_of(manager).expiry is None
    assert await at.scheduled() == []


async def test_a_crash_before_it_is_noted_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told again: at least once, with the same id and end."""
    at = Expiring()
    await at.begin(ALICE)

    async def crash(shard: str, entries: object) -> None:
        raise StoreUnavailableError("the process was killed, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "remove", crash)
        with pytest.raises(StoreUnavailableError):
            await at.after(WEEK)

    told = [*at.told]
    assert len(told) == 1
    assert await at.sweep() == told
    assert await at.sweep() == []


async def test_a_callable_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is called again, each time later, with the same event; others are told meanwhile."""
    tries = list[tuple[int, Expired]]()

    def told(expired: Expired) -> None:
        if expired.principal == "alice":
            tries.append((int(at.clock.now - begun) - WEEK, expired))
            if len(tries) < 4:
                raise RuntimeError("not now")
        else:
            at.told.append(expired)

    at = Expiring(on_expired=told)
    begun = at.clock.now
    await at.begin(ALICE)
    await at.begin({"user_id": "bob"})
    assert [each.principal for each in await at.after(WEEK)] == ["bob"]
    for _ in range(60):
        await at.after(1)

    assert [second for second, _ in tries] == [0, 5, 15, 35]
    assert len({expired for _, expired in tries}) == 1
    assert "is called again in 20 seconds" in caplog.text
    assert "alice" not in caplog.text.replace("not now", "")


async def test_the_principal_is_sealed() -> None:
    """Nobody who reads the schedule learns it, and equal principals look different."""
    at = Expiring()
    await at.begin(ALICE)
    await at.begin(ALICE)
    await settle(at.manager)
    at.clock.advance(WEEK)
    found = [await schedule_of(at.store).due(shard, 2) for shard in SHARDS]
    first, second = (due.about for entries, _ in found for due in entries)
    assert b"alice" not in first
    assert first[4:] != second[4:]


async def test_a_new_secret_key() -> None:
    """What was sealed under a retired key is told; under a key that is gone, without principal."""
    at, key = Expiring(), generate_key()
    for keys, principal in ((Keyring(key, KEY), "alice"), (Keyring(key), None)):
        token = await at.begin(ALICE)
        await settle(at.manager)
        at.clock.advance(WEEK)
        told = list[Expired]()
        manager = SessionManager(at.store, keys, clock=at.clock, on_expired=told.append)
        await sweep(manager)
        assert [(each.id, each.principal) for each in told] == [(token[:20], principal)]


@pytest.mark.parametrize("about", [b"x", b"\0" * 200])
async def test_damaged_entries(about: bytes) -> None:
    """What nobody sealed is told without a principal, and raises nothing."""
    at, id = Expiring(), new_id()
    await schedule_of(at.store).note(id, 1000, about)

    assert [(each.id, each.principal) for each in await at.after(1)] == [(id, None)]


async def test_a_schedule_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on, and the log says so."""
    at = Expiring()

    async def fail(*_: object) -> None:
        raise StoreUnavailableError("away, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "note", fail)
        patch.setattr(schedule_of(at.store), "end", fail)
        token = await at.begin(ALICE)
        await clear(at, token, await at.load(token))
        await settle(at.manager)

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "the schedule for on_expired= lacks a change: away" in caplog.text


async def test_a_note_that_comes_after_the_end() -> None:
    """A touch that was under way while the session ended doesn't bring it back."""
    at = Expiring()
    token = await at.begin(ALICE)
    await clear(at, token, await at.load(token))
    await settle(at.manager)
    await schedule_of(at.store).note(token[:20], WEEK * 1000, b"late")

    assert await at.after(WEEK) == []
    assert await at.scheduled() == []


async def test_sessions_that_were_lost() -> None:
    """If all data of the store are lost, nobody is told."""
    at = Expiring()
    await at.begin(ALICE)
    await settle(at.manager)
    at.store = type(at.store)(clock=at.clock)
    at.manager = SessionManager(at.store, KEY, clock=at.clock, on_expired=at.told.append)

    assert await at.after(WEEK) == []


async def test_a_tombstone_where_a_session_was_due() -> None:
    """It has just ended, and the schedule doesn't know it yet."""
    at = Expiring()
    token = await at.begin(ALICE)
    await settle(at.manager)
    at.clock.advance(WEEK - 1)
    other = SessionManager(at.store, KEY, clock=at.clock)
    assert await other.revoke_all("alice") == 1

    assert await at.after(1) == []
    assert await at.after(DAY) == []
    assert token[:20] not in await at.scheduled()


async def test_many_at_once() -> None:
    """They are told in steps, each once."""
    at = Expiring()
    ids = list[str]()
    while len(ids) < STEP + AT_ONCE + 1:  # in one shard
        if shard_of(id := new_id()) == "7":
            ids.append(id)
            await schedule_of(at.store).note(id, 1000, b"x")

    assert sorted(each.id for each in await at.after(1)) == sorted(ids)


async def test_a_node_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of which nobody can say whether they are over wait. The others are told."""
    at = Expiring()
    away, there = [(await at.begin(ALICE))[:20] for _ in range(2)]
    left = schedule_of(at.store).left

    async def some(id: str) -> int | None:
        if id == away:
            raise StoreUnavailableError("its node is away, says the test")
        return await left(id)

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "left", some)
        with pytest.raises(StoreUnavailableError):
            await at.after(WEEK)

    assert [each.id for each in at.told] == [there]
    assert [each.id for each in await at.sweep()] == [away]


async def test_another_process_leads() -> None:
    """Nothing is told once the check raises."""
    at = Expiring()
    await at.begin(ALICE)
    await settle(at.manager)
    at.clock.advance(WEEK)
    expiry = backend_of(at.manager).expiry
    assert expiry is not None

    def check() -> None:
        raise RuntimeError("another one leads")

    with pytest.raises(RuntimeError, match="another one leads"):
        await expiry.sweep(check)
    assert at.told == []


async def test_entries_nobody_takes() -> None:
    """What was noted again since it was due isn't removed."""
    store, id = MemoryStore(clock=(clock := Clock())), new_id()
    schedule = schedule_of(store)
    await schedule.note(id, 1000, b"x")
    clock.advance(1)
    (due,), _ = await schedule.due(shard_of(id), 10)
    await schedule.note(id, 0, b"y")
    await schedule.remove(shard_of(id), [Due(id, due.at - 1, b"x")])

    assert [each.about for each in (await schedule.due(shard_of(id), 10))[0]] == [b"y"]


def test_what_is_no_callable() -> None:
    """The error names the option."""
    wrong: Any = "print"
    with pytest.raises(ConfigurationError, match="on_expired='print': write a callable"):
        SessionManager(MemoryStore(), KEY, on_expired=wrong)


def test_what_is_shown() -> None:
    """An `Expired` shows no principal in logs."""
    assert repr(Expired("x" * 20, "alice", datetime.now(UTC))) == f"<Expired {'x' * 20}>"
