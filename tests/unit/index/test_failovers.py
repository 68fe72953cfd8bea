"""What a failover lost of the index or the record is made good at the next touch."""

from __future__ import annotations

import pytest

from redis_sessions import SessionGoneError
from redis_sessions.session.outcome import Outcome
from tests.unit.index.losses import changed, ids, lose_the_end, lose_the_entry, visited
from tests.unit.setting import ALICE, DAY, DUE, Setting


async def test_a_lost_end_takes_effect_at_the_touch(at: Setting) -> None:
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


async def test_changes_do_not_keep_a_revoked_session_alive(at: Setting) -> None:
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


async def test_updates_do_not_keep_a_revoked_session_alive(at: Setting) -> None:
    """update() renews the session when a touch is due: it asks the index before."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    with pytest.raises(SessionGoneError):
        await at.manager.update(session, lambda data: data.update(count=1))
    assert await at.data(token) == {}


async def test_rotations_do_not_keep_a_revoked_session_alive(at: Setting) -> None:
    """rotate() renews the session when a touch is due: it asks the index before."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    session.rotate()
    answer = await at.commit(session)
    assert (answer.outcome, answer.token) == (Outcome.DROP, None)
    assert await at.data(token) == {}


async def test_saves_do_not_keep_a_revoked_session_alive(at: Setting) -> None:
    """save() asks the index when a touch is due, and says that the session is gone."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    at.clock.advance(DUE)
    session = await at.load(token)
    session["a"] = 1
    with pytest.raises(SessionGoneError):
        await session.save()
    assert await at.data(token) == {}


async def test_a_longer_life_is_asked_for_at_the_index(at: Setting) -> None:
    """expire_in() asks the index whatever is due: a revoked session gets no longer life."""
    token = await at.begin(ALICE)
    await lose_the_end(at, token)
    session = await at.load(token)
    session.expire_in(100 * DAY)
    answer = await at.commit(session)
    assert (answer.outcome, answer.token) == (Outcome.DROP, None)
    assert await at.data(token) == {}


async def test_a_lost_entry_is_written_again(at: Setting) -> None:
    """The entry was lost, and nothing speaks against the session: its touch enters it."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    assert await ids(at) == set()
    at.clock.advance(DUE)
    assert (await visited(at, token)).outcome is Outcome.TOUCH
    assert await ids(at) == {token[:20]}


async def test_a_lost_entry_stays_lost_after_a_revocation(at: Setting) -> None:
    """... unless all sessions were revoked since it signed in."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    at.clock.advance(1)
    assert await at.manager.revoke_all("alice") == 0
    assert await at.data(token) == ALICE
    at.clock.advance(DUE)
    await visited(at, token)
    assert await at.data(token) == {}


async def test_what_is_kept_lives_without_its_entry(at: Setting) -> None:
    """revoke_all(keep=…) enters the session that it keeps, if its entry was lost."""
    token = await at.begin(ALICE)
    await lose_the_entry(at)
    await at.manager.revoke_all("alice", keep=token[:20])
    at.clock.advance(DUE)
    assert (await visited(at, token)).outcome is Outcome.TOUCH
    assert await ids(at) == {token[:20]}
