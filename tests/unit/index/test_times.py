"""The times in the index: of proving again who one is, and of lifetimes."""

from __future__ import annotations

from datetime import datetime

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.state import LONGEST
from redis_sessions.stores.protocols import EntryStatus
from tests.unit.index.losses import ids, lose_the_end
from tests.unit.setting import ALICE, DAY, Setting, token_of

# -- proving again who one is


async def test_authenticated_is_in_the_index(at: Setting) -> None:
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
async def test_authenticated_after_a_revocation(at: Setting, end_lost: bool) -> None:
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


async def test_authenticated_signs_in_after_a_revocation(at: Setting) -> None:
    """... as the same principal, though the request itself didn't set who that is."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    await at.manager.revoke(token[:20], principal="alice")
    session.authenticated()
    new = token_of(await at.commit(session))
    assert (await at.load(new)).principal == "alice"
    assert await ids(at) == {new[:20]}


async def test_authenticated_is_overtaken_by_revoke_all(at: Setting) -> None:
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


async def test_a_longer_life_is_the_entrys_too(at: Setting) -> None:
    """expire_in() renews the entry's time: it isn't pruned before its session ends."""
    token = await at.begin(ALICE)
    session = await at.load(token)
    session.expire_in(100 * DAY)
    token = token_of(await at.commit(session))
    assert await expiry(at) == int(at.clock.now) + 100 * DAY
    at.clock.advance(99 * DAY)
    assert await ids(at) == {token[:20]}
    assert await at.manager.revoke_all("alice") == 1


async def test_a_life_chosen_at_the_sign_in(at: Setting) -> None:
    """Remember me: the entry lasts as long as the session."""
    session = await at.load(None)
    session["user_id"] = "alice"
    session.expire_in(60 * DAY)
    await at.commit(session)
    assert await expiry(at) == int(at.clock.now) + 60 * DAY


async def test_a_mark_lasts_as_long_as_the_session(at: Setting) -> None:
    """A session whose end was lost can't outlive the mark that ends it."""
    session = await at.load(None)
    session["user_id"] = "alice"
    session.expire_in(LONGEST)
    token = token_of(await at.commit(session))
    await at.manager.revoke(token[:20], principal="alice")
    at.clock.advance(LONGEST - 1)
    key = backend_of(at.manager).keyring.primary.index("alice")
    assert await at.store.ask(key, token[:20], authenticated=2**52) is EntryStatus.ENDED


async def test_an_expired_session_is_not_listed(at: Setting) -> None:
    """Neither one that wasn't used for the idle timeout, nor one past its lifetime."""
    await at.begin(ALICE)
    at.clock.advance(7 * DAY + 1)
    assert await ids(at) == set()
    assert await at.manager.revoke_all("alice") == 0
