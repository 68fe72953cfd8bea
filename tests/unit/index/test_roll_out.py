"""While a key rolls out, sign-ins, sign-outs and revocations count under each key."""

from __future__ import annotations

import pytest

from redis_sessions import (
    Event,
    Keyring,
    Session,
    SessionManager,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.testing import Clock, store_session
from tests.support.stores import UnreliableStore
from tests.unit.setting import ALICE, DUE

OLD, NEW = generate_key(), generate_key()


class Rollout:
    """Three deployments over one store: the old key, [new, old], and the new one alone."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[Event] = []
        self.store = UnreliableStore(clock=self.clock)
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
    await backend_of(roll.before).index.mark("alice", token[:20])
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
    roll.store.lose_indexes()
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


@pytest.mark.parametrize("touched", [False, True])
async def test_a_replaced_token_ends_under_each_key(touched: bool) -> None:
    """Rotated under [new, old], the record of before restored: it ends under each deployment."""
    for number in range(3):
        roll = Rollout()
        manager = (roll.before, roll.during, roll.after)[number]
        token = await store_session(roll.before, ALICE)
        if touched or manager is roll.after:  # without a touch it is sealed under the old key alone
            roll.clock.advance(DUE)
            await seen(roll.during, token)
        record = await roll.store.load(token[:20])
        assert record is not None
        session = await roll.during.load(token)
        session.rotate()
        await roll.during.commit(session)
        roll.store.put_back(token[:20], record, 10**9)
        if manager is not roll.before or not touched:
            assert (await manager.load(token)).principal == "alice"
        roll.clock.advance(DUE)
        assert (await seen(manager, token)).principal is None
