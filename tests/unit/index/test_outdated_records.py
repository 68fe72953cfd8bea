"""A record of before its session's last rotation, which a failover or a backup brought back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from redis_sessions import Session, StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.outcome import Outcome
from tests.unit.index.losses import changed, visited
from tests.unit.setting import ALICE, DAY, DUE, Setting, token_of

HOUR = 3_600_000

Way = Callable[[Session], object]
WAYS: Final[dict[str, Way]] = {
    "authenticated": Session.authenticated,
    "rotate": Session.rotate,
    "expire_in": lambda session: session.expire_in(30 * DAY),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


async def rotated(at: Setting, token: str, way: Way) -> str:
    session = await at.load(token)
    way(session)
    return token_of(await at.commit(session))


async def authenticated(at: Setting, token: str) -> str:
    return await rotated(at, token, Session.authenticated)


async def restored(at: Setting, way: Way = Session.authenticated) -> tuple[str, str]:
    """A token that was replaced, whose record is back, and the one of after."""
    old = await at.begin(ALICE)
    record = await at.store.load(old[:20])
    assert record is not None
    at.clock.advance(60)
    new = await rotated(at, old, way)
    at.store.put_back(old[:20], record, HOUR)
    assert await at.data(old) == ALICE
    return old, new


@every_way
async def test_a_restored_record_ends_at_its_touch(at: Setting, way: Way) -> None:
    """The replaced token reads until its touch is due; then neither token opens anything."""
    old, new = await restored(at, way)
    at.clock.advance(DUE)
    assert (await visited(at, old)).token is None
    assert at.reported("ended") == ["outdated"]
    assert [await at.data(token) for token in (old, new)] == [{}, {}]


@every_way
@pytest.mark.parametrize("what", ["change", "update", "rotate"])
async def test_nothing_keeps_a_restored_record_alive(at: Setting, what: str, way: Way) -> None:
    """A change, an update or a rotation that is due asks the index as a touch does."""
    old, _ = await restored(at, way)
    at.clock.advance(DUE)
    session = await at.load(old)
    if what == "update":
        with pytest.raises(Exception, match="revoked"):
            await at.manager.update(session, lambda data: data.update(a=1))
    else:
        if what == "change":
            session["a"] = 1
        else:
            session.rotate()
        assert (await at.commit(session)).outcome is Outcome.DROP
    assert await at.data(old) == {}


@every_way
async def test_a_restored_record_that_is_rotated_ends_at_its_touch(at: Setting, way: Way) -> None:
    """Who holds the replaced token doesn't keep the session by a rotation of their own."""
    old, new = await restored(at, way)
    at.clock.advance(2)
    latest = await rotated(at, old, Session.rotate)
    assert await at.data(latest) == ALICE, "no touch was due"
    at.clock.advance(DUE)
    await visited(at, latest)
    assert at.reported("ended") == ["outdated"]
    assert [await at.data(token) for token in (old, new, latest)] == [{}, {}, {}]


@pytest.mark.parametrize("way", [Session.authenticated, Session.rotate])
async def test_many_rotations_are_no_restored_record(at: Setting, way: Way) -> None:
    """However fast they follow, and though the index wasn't told of each, the session lives on."""
    token = await at.begin(ALICE)
    for number in range(6):
        at.store.failing = {"authenticated"} if number % 2 else set()
        token = await rotated(at, token, way)
    for _ in range(3):
        at.clock.advance(DUE)
        await visited(at, token)
    assert await at.data(token) == ALICE
    assert at.reported("ended") == []


@every_way
async def test_within_its_deadline_nobody_is_ended(at: Setting, way: Way) -> None:
    """A touch that crosses a rotation by less than 30 seconds leaves the session alone."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    late = await at.load(token)
    new = await rotated(at, token, way)
    assert (await at.commit(late)).token is None
    assert await at.data(new) == ALICE
    assert at.reported("ended") == []


@every_way
async def test_a_touch_that_is_overtaken_ends_nothing(at: Setting, way: Way) -> None:
    """It found its record outdated, and the record was replaced meanwhile: only that one ends."""
    token = await at.begin(ALICE)
    at.clock.advance(DUE)
    late = await at.load(token)
    new = await rotated(at, token, way)
    at.clock.advance(40)
    assert (await at.commit(late)).token is None
    assert await at.data(new) == ALICE
    assert at.reported("ended") == []


async def test_a_change_of_data_in_between(at: Setting) -> None:
    """A restored record that was changed since is outdated all the same."""
    old, _ = await restored(at)
    at.clock.advance(DUE)
    late = await at.load(old)
    assert (await changed(at, old, a=1)).outcome is Outcome.DROP
    assert (await at.commit(late)).token is None
    assert await at.data(old) == {}


@every_way
async def test_an_index_that_lacks_the_new_time_does_no_harm(at: Setting, way: Way) -> None:
    """A rotation holds though the index couldn't be told, and its session lives on."""
    token = await at.begin(ALICE)
    at.clock.advance(60)
    at.store.failing.add("authenticated")
    new = await rotated(at, token, way)
    at.store.failing.clear()
    for _ in range(3):
        at.clock.advance(DUE)
        await visited(at, new)
    assert await at.data(new) == ALICE


@every_way
async def test_a_commit_that_fails_leaves_the_index_as_it_was(at: Setting, way: Way) -> None:
    """A rotation whose record can't be written signs nobody out."""
    token = await at.begin(ALICE)
    at.clock.advance(60)
    at.store.failing.add("commit")
    with pytest.raises(StoreUnavailableError):
        await rotated(at, token, way)
    at.store.failing.clear()
    for _ in range(3):
        at.clock.advance(DUE)
        await visited(at, token)
    assert await at.data(token) == ALICE


async def test_a_late_touch_sets_no_time_back(at: Setting) -> None:
    """The index keeps the later time, so that the restored record is found out afterwards."""
    old, _ = await restored(at)
    await at.store.touch(
        backend_of(at.manager).keyring.primary.index("alice"),
        old[:20],
        authenticated=1,
        ttl=HOUR,
        descriptor=b"",
    )
    at.clock.advance(DUE)
    await visited(at, old)
    assert await at.data(old) == {}


@every_way
async def test_a_touch_tells_what_the_index_lacks(at: Setting, way: Way) -> None:
    """The rotation couldn't be noted, and a touch was made since: the replaced token ends."""
    old = await at.begin(ALICE)
    record = await at.store.load(old[:20])
    assert record is not None
    at.store.failing.add("authenticated")
    new = await rotated(at, old, way)
    at.store.failing.clear()
    at.clock.advance(DUE)
    await visited(at, new)
    at.store.put_back(old[:20], record, HOUR)
    await visited(at, old)
    assert [await at.data(token) for token in (old, new)] == [{}, {}]
