"""Which sessions an application is told of as expired (`on_expired=`), and how often."""

from __future__ import annotations

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
from redis_sessions.lifecycle.expiry import Expired
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores.schedule import SHARDS, schedule_of
from redis_sessions.testing import store_session
from redis_sessions.testing.conformance import new_id
from tests.unit.expiring import WEEK, Expiring, settle, sweep
from tests.unit.setting import ALICE, DAY, DUE, KEY, Setting, token_of


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


async def test_what_is_no_id() -> None:
    """It is nobody's session, and removed."""
    at = Expiring()
    await schedule_of(at.store).note("nobody", 1000, b"x")

    assert await at.after(1) == []
    assert await at.scheduled() == []


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


async def test_an_end_that_came_too_late() -> None:
    """Who is revoked after their session ran out is told of all the same, with its own end."""
    at = Expiring()
    token = await at.begin(ALICE)
    end = datetime.fromtimestamp(at.clock.now + WEEK, UTC)
    at.clock.advance(WEEK)
    assert await at.manager.revoke_all("alice") == 0

    assert await at.sweep() == []
    assert await at.after(30) == [Expired(token[:20], "alice", end)]


async def test_an_end_in_time() -> None:
    """Who is revoked just before isn't told of."""
    at = Expiring()
    await at.begin(ALICE)
    at.clock.advance(WEEK - 1)
    assert await at.manager.revoke_all("alice") == 1

    assert await at.after(1) == []
    assert await at.after(61) == []
    assert await at.scheduled() == []


@pytest.mark.parametrize("data", [{"cart": [3]}, ALICE])
async def test_a_touch_of_a_session_that_was_ended(data: dict[str, Any]) -> None:
    """A request that goes on for long after another one has ended its session notes nothing."""
    at = Expiring()
    token = await at.begin(data)
    at.clock.advance(DUE)
    session = await at.load(token)
    await at.request(lambda other: other.clear(), token)
    assert await at.after(61) == []
    await at.commit(session)

    assert await at.after(WEEK) == []


@pytest.mark.parametrize("told_first", [False, True])
@pytest.mark.parametrize("data", [{"cart": [3]}, ALICE])
async def test_a_touch_that_comes_too_late(data: dict[str, Any], told_first: bool) -> None:
    """If a session runs out during a request, it is told once, with the end that it had."""
    at = Expiring()
    token = await at.begin(data)
    end = datetime.fromtimestamp(at.clock.now + WEEK, UTC)
    at.clock.advance(WEEK - 1)
    session = await at.load(token)
    at.clock.advance(2)
    if told_first:
        await at.sweep()
    await at.commit(session)
    await at.sweep()

    assert [(each.id, each.when) for each in at.told] == [(token[:20], end)]
    assert await at.after(WEEK) == []


async def test_a_write_of_which_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the answer is lost, the session may be there: it is noted."""
    at = Expiring()
    commit = at.store.commit

    async def lost(*arguments: Any) -> None:
        await commit(*arguments)
        raise StoreUnavailableError("the answer was lost, says the test")

    monkeypatch.setattr(at.store, "commit", lost)
    with pytest.raises(StoreUnavailableError):
        await at.begin(ALICE)

    assert [each.principal for each in await at.after(WEEK)] == ["alice"]


async def test_a_callable_principal_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored is answered: the note is without a principal then."""
    raises = list[bool]()

    def find(data: dict[str, Any]) -> str | None:
        if raises:
            raise LookupError
        return data.get("user_id")

    at = Expiring(principal=find)
    commit = at.store.commit

    def commit_and_fail(*arguments: Any) -> Any:
        raises.append(True)
        return commit(*arguments)

    monkeypatch.setattr(at.store, "commit", commit_and_fail)
    session = await at.load(None)
    session["user_id"] = "alice"
    assert (await at.commit(session)).token is not None

    assert [each.principal for each in await at.after(WEEK)] == [None]


def test_what_is_no_callable() -> None:
    """The error names the option."""
    wrong: Any = "print"
    with pytest.raises(ConfigurationError, match="on_expired='print': write a callable"):
        SessionManager(MemoryStore(), KEY, on_expired=wrong)


def test_what_is_shown() -> None:
    """An `Expired` shows no principal in logs."""
    assert repr(Expired("x" * 20, "alice", datetime.now(UTC))) == f"<Expired {'x' * 20}>"
