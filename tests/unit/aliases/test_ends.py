"""Sessions that are ended by their alias, and sign-ins that cross an end."""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from typing import Any

import pytest

from redis_sessions import Keyring, SessionManager, StoreUnavailableError
from redis_sessions.session.keyring import SecretKey
from redis_sessions.testing import Clock
from tests.support.stores import UnreliableStore
from tests.unit.aliases.aliased import SID, lose_the_end, signed_in
from tests.unit.setting import DUE, KEY, Setting, token_of
from tests.unit.visits import alive, in_request, visit


class Sid(enum.StrEnum):
    ONE = "s-1"


# -- revoke_by


async def test_all_sessions_with_the_alias_end(at: Setting) -> None:
    """Whoever they are of; not those with another value or another name, nor those without."""
    mine = [await signed_in(at, SID), await signed_in(at, {"sid": Sid.ONE}, user="bob")]
    others = [
        await signed_in(at, {"sid": "s-2"}),
        await signed_in(at, {"device": "s-1"}),
        await signed_in(at),
        await signed_in(at, user="s-1"),
    ]
    assert await at.manager.revoke_by("sid", "s-1") == 2
    assert await alive(at, *mine, *others) == [False] * 2 + [True] * 4
    assert await at.manager.revoke_by("sid", "s-1") == 0
    assert at.reported("revoked") == ["by alias"] * 2
    assert await at.manager.revoke_all("sid\0s-1") == 0


async def test_one_session_has_several(at: Setting) -> None:
    """Each of them ends it."""
    aliases = {"sid": "s-1", "device": "d-1"}
    for name, value in aliases.items():
        token = await signed_in(at, aliases)
        assert await at.manager.revoke_by(name, value) == 1
        assert await alive(at, token) == [False]
        at.clock.advance(1)


async def test_who_signs_in_later_stays(at: Setting) -> None:
    """As after `revoke_all`: what ends is what was there before."""
    await at.manager.revoke_by("sid", "s-1")
    at.clock.advance(1)
    token = await signed_in(at, SID)
    at.clock.advance(DUE)
    await visit(at, token)
    assert await alive(at, token) == [True]


async def test_a_lost_end_is_noticed_at_the_touch(at: Setting) -> None:
    """A revocation holds though a failover lost the record's end, and the index is elsewhere."""
    token, other = await signed_in(at, SID), await signed_in(at, {"sid": "s-2"})
    record = await at.store.load(token[:20])
    await at.manager.revoke_by("sid", "s-1")
    await lose_the_end(at, token, record)
    assert await alive(at, token, other) == [True, True]
    at.clock.advance(DUE)
    await visit(at, token)
    await visit(at, other)
    assert await alive(at, token, other) == [False, True]


async def test_a_lost_entry_is_written_again(at: Setting) -> None:
    """By the next touch; then the alias ends the session as before."""
    token = await signed_in(at, SID)
    at.store.lose_indexes()
    assert await at.manager.revoke_by("sid", "s-2") == 0
    at.clock.advance(DUE)
    await visit(at, token)
    assert await at.manager.revoke_by("sid", "s-1") == 1


async def test_each_key_of_the_ring_is_asked(at: Setting) -> None:
    """While a secret key rolls out, it finds what signed in under the other key."""
    token = await signed_in(at, SID)
    new = Keyring("a new key of thirty-two characters or more", KEY)
    later = SessionManager(at.store, new, clock=at.clock)
    assert await later.revoke_by("sid", "s-1") == 1
    assert await alive(at, token) == [False]


async def test_the_request_that_revokes_has_one(at: Setting) -> None:
    """Its own session counts as cleared, and it may sign in again with the same alias."""
    token = await signed_in(at, SID)
    session = await at.load(token)
    with in_request(session):
        assert await at.manager.revoke_by("sid", "s-1") == 1
        assert session.is_new
        session.sign_in("alice", aliases=SID)
        new = token_of(await at.commit(session))
    assert await alive(at, token, new) == [False, True]
    at.clock.advance(DUE)
    await visit(at, new)
    assert await alive(at, new) == [True]
    assert await at.manager.revoke_by("sid", "s-1") == 1


class TwoServers(UnreliableStore):
    """A Cluster: one index is on a server whose clock is off by so many seconds."""

    def __init__(self, clock: Clock, key: str, off: float) -> None:
        self.key, self.off = key, off
        self.now_off: float = 0
        super().__init__(clock=lambda: clock() + self.now_off)

    async def _there(self, key: str, operation: Awaitable[Any]) -> Any:
        self.now_off = self.off if key == self.key else 0.0
        try:
            return await operation
        finally:
            self.now_off = 0.0

    async def enter(self, key: str, *arguments: Any, **named: Any) -> Any:
        return await self._there(key, super().enter(key, *arguments, **named))

    async def touch(self, key: str, *arguments: Any, **named: Any) -> Any:
        return await self._there(key, super().touch(key, *arguments, **named))

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Any:
        return await self._there(key, super().revoke(key, keep=keep, memory=memory))


@pytest.mark.parametrize("off", [-90, 90])
async def test_the_indexes_have_different_clocks(at: Setting, off: float) -> None:
    """A revocation ends what signed in before it, and nothing else, by the alias' own clock."""
    at.store = TwoServers(at.clock, SecretKey(KEY).alias("sid\0s-1"), off)
    at.manager = SessionManager(at.store, Keyring(KEY), clock=at.clock)
    token = await signed_in(at, SID)
    record = await at.store.load(token[:20])
    at.clock.advance(1)
    assert await at.manager.revoke_by("sid", "s-1") == 1
    await lose_the_end(at, token, record)
    at.clock.advance(1)
    later = await signed_in(at, SID)
    at.clock.advance(DUE)
    await visit(at, token)
    await visit(at, later)
    assert await alive(at, token, later) == [False, True]


# -- sign-ins that cross


async def test_a_sign_in_that_was_overtaken_is_refused(at: Setting) -> None:
    """A logout that arrives while a sign-in with its `sid` is under way: 503, and no session."""
    session = await at.load(None)
    session["cart"] = 1
    at.clock.advance(1)
    await at.manager.revoke_by("sid", "s-1")
    session.sign_in("alice", aliases=SID)
    with pytest.raises(StoreUnavailableError, match="alias"):
        await at.commit(session)
    assert at.reported("refused") == ["revoked meanwhile"]
    assert at.store.asked[-1] == "enter"
    assert await at.manager.sessions_of("alice") == []


async def test_a_late_touch_by_an_alias_of_before(at: Setting) -> None:
    """It doesn't end who has signed in by another alias since."""
    token = await signed_in(at, SID)
    at.clock.advance(DUE)
    late = await at.load(token)
    new = await signed_in(at, {"sid": "s-2"}, token=token)
    at.clock.advance(1)
    assert await at.manager.revoke_by("sid", "s-1") == 0
    await at.commit(late)
    assert await alive(at, token, new) == [False, True]


async def test_two_give_one_session_the_same_alias(at: Setting) -> None:
    """Two sign-ins of the user who is signed in cross. Neither session ends by its next touch."""
    token = await signed_in(at)
    one = await at.load(token)
    at.clock.advance(1)
    two = await at.load(token)
    for session in (one, two):
        session.sign_in("alice", aliases=SID)
    tokens = [token_of(await at.commit(session)) for session in (one, two)]
    at.clock.advance(DUE)
    for each in tokens:
        await visit(at, each)
    assert await alive(at, *tokens) == [True, True]
    assert await at.manager.revoke_by("sid", "s-1") == 2


@pytest.mark.parametrize("away", ["enter", "commit"])
async def test_a_sign_in_that_failed_signs_nobody_in(at: Setting, away: str) -> None:
    """Where an index or the record can't be written, there is no session to be revoked."""
    at.store.failing.add(away)
    with pytest.raises(StoreUnavailableError):
        await signed_in(at, SID)
    at.store.failing.clear()
    assert await at.manager.revoke_by("sid", "s-1") == 0


async def test_the_order_of_writes(at: Setting) -> None:
    """The indexes first and the record second; an end ends the record first."""
    token = await signed_in(at, {"sid": "s-1", "device": "d-1"})
    assert at.store.asked == ["enter", "enter", "enter", "commit"]
    at.store.asked.clear()
    at.clock.advance(DUE)
    await visit(at, token)
    assert at.store.asked == ["touch", "touch", "touch", "commit"]
    at.store.asked.clear()
    session = await at.load(token)
    session.sign_out()
    await at.commit(session)
    assert at.store.asked == ["commit", "mark", "remove", "remove"]
