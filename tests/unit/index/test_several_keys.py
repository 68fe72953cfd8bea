"""What a principal's indexes say together where three secret keys are in use, two of them old."""

from __future__ import annotations

from typing import Final

import pytest

from redis_sessions import Keyring, MemoryStore, SessionManager, generate_key
from redis_sessions.testing import Clock, store_session
from redis_sessions.testing.conformance import new_id
from tests.unit.setting import ALICE, DUE

NEW, OLD, OLDEST = KEYS = [generate_key() for _ in range(3)]

MARKS: Final = 256
"""How many marks of ended sessions an index keeps."""
HOUR: Final = 3_600_000


class Indexes:
    """Three keys over one store, and alice's index under each of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.manager = self.manager_of(*KEYS)

    def manager_of(self, *keys: str) -> SessionManager:
        return SessionManager(self.store, Keyring(*keys), clock=self.clock)

    async def forget(self, key: str, token: str) -> None:
        """The index under this key has lost the entry."""
        await self.store.remove(_name(key), [token[:20]], until=float("inf"))

    async def overflow(self, key: str) -> None:
        """So many sessions have ended that the index under this key has forgotten some of them."""
        for _ in range(MARKS + 1):
            await self.store.mark(_name(key), new_id(), ttl=HOUR)

    async def lives(self, token: str) -> bool:
        """Whether the session survives its next touch."""
        self.clock.advance(DUE)
        await self.manager.commit(await self.manager.load(token))
        return (await self.manager.load(token)).principal == "alice"


def _name(key: str) -> str:
    return Keyring(key).primary.index("alice")


@pytest.fixture
def at() -> Indexes:
    return Indexes()


@pytest.mark.parametrize("doubtful", [OLD, OLDEST], ids=["first retired", "last retired"])
async def test_doubt_under_any_retired_key_counts(at: Indexes, doubtful: str) -> None:
    """A session that no index has, and one of them may have ended, ends."""
    token = await store_session(at.manager_of(doubtful), ALICE)
    at.clock.advance(1)
    await at.overflow(doubtful)
    await at.forget(doubtful, token)
    assert not await at.lives(token)


@pytest.mark.parametrize("known", [OLD, OLDEST], ids=["first retired", "last retired"])
@pytest.mark.parametrize("doubtful", KEYS, ids=["new", "first retired", "last retired"])
async def test_an_entry_under_any_key_counts(at: Indexes, known: str, doubtful: str) -> None:
    """A session that one index has lives on, whichever of the others has forgotten whom it ended.

    (In its own index, too: an entry speaks for itself there.)
    """
    token = await store_session(at.manager_of(known), ALICE)
    at.clock.advance(1)
    await at.overflow(doubtful)
    assert await at.lives(token)


async def test_nothing_is_known_anywhere(at: Indexes) -> None:
    """A session that no index has, and none has reason to doubt, lives on."""
    token = await store_session(at.manager_of(OLD), ALICE)
    await at.forget(OLD, token)
    assert await at.lives(token)


async def test_a_sign_in_less_than_a_millisecond_after_a_revocation(at: Indexes) -> None:
    """A revocation by a process that knows the old key alone doesn't end who signs in after it."""
    at.clock.now += 0.0005
    await at.manager_of(OLD).revoke_all("alice")
    at.clock.now += 0.0002
    token = await store_session(at.manager, ALICE)
    assert await at.lives(token)
