"""`manager.count()` and `manager.sessions()`: who is here, without a token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    Keyring,
    MemoryStore,
    SessionManager,
    StoredSession,
    StoreUnavailableError,
    generate_key,
)
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.enumeration import Found
from redis_sessions.testing import Clock
from tests.unit.setting import ALICE, DAY, KEY, Setting, token_of

OLD = generate_key()


async def listed(manager: SessionManager) -> dict[str, StoredSession]:
    return {info.id: info async for info in manager.sessions()}


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def test_all_count_who_live() -> None:
    """Visitors as well as users; not who has left, and not whose time is over."""
    site = Setting()
    assert await site.manager.count() == 0
    tokens = [await site.begin(data) for data in (ALICE, ALICE, {"user_id": "bob"}, {"cart": 1})]
    assert await site.manager.count() == 4
    assert set(await listed(site.manager)) == {token[:20] for token in tokens}

    session = await site.load(tokens[0])
    session.clear()
    await site.commit(session)
    assert await site.manager.revoke_all("bob") == 1
    assert set(await listed(site.manager)) == {tokens[1][:20], tokens[3][:20]}
    assert await site.manager.count() == 2
    site.clock.advance(8 * DAY)
    assert await site.manager.count() == 0


async def test_what_is_told() -> None:
    """When it ends if it isn't used, when its token was replaced, its key and its size."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    old, new = (SessionManager(store, keys, clock=clock) for keys in (OLD, [KEY, OLD]))
    session = await old.load()
    session.update(ALICE)
    token = token_of(await old.commit(session))
    began = clock()
    [info] = (await listed(new)).values()
    sealed = await store.load(info.id)
    assert sealed is not None
    assert info == StoredSession(
        id=token[:20],
        idle_expires_at=at(int(began) + 7 * DAY),
        rotated_at=None,
        key_id=Keyring(OLD).primary.id.hex(),
        size=len(sealed),
    )

    clock.advance(DAY)
    session = await new.load(token)
    session.rotate()
    await new.commit(session)
    [info] = (await listed(old)).values()
    assert info.rotated_at == at(int(clock()))
    assert info.idle_expires_at == at(int(clock()) + 7 * DAY)
    assert info.key_id == Keyring(KEY).primary.id.hex()


async def test_it_may_be_left_early() -> None:
    """Whoever has seen enough goes on without it."""
    site = Setting()
    for _ in range(3):
        await site.begin(ALICE)
    async with aclosing(site.manager.sessions()) as found:
        assert (await anext(found)).size > 33
    assert await site.manager.count() == 3


class Odd(MemoryStore):
    """A store with what no manager has stored, and which fails in the end."""

    def __init__(self, *found: Found, failing: bool = False) -> None:
        super().__init__()
        self.found = found
        self.failing = failing

    async def scan(self) -> AsyncGenerator[Sequence[Found], None]:
        for each in self.found:
            yield [each]
        if self.failing:
            raise StoreUnavailableError("the connection is lost, says the test")


ID = SessionToken.generate().id


@pytest.mark.parametrize(
    ("header", "size", "left", "expires", "rotated"),
    [
        (b"\xff" * 33, 34, None, None, at(2**32 - 1)),
        (b"\x07" + bytes(32), 40, 2**63 - 1, at(253_402_300_799), None),
    ],
)
async def test_odd_records(
    header: bytes, size: int, left: int | None, expires: datetime | None, rotated: datetime | None
) -> None:
    """Whatever is stored there, of another format and with any TTL, raises nothing."""
    manager = SessionManager(Odd(Found(ID, header, size, left)), KEY)
    [info] = (await listed(manager)).values()
    assert (info.idle_expires_at, info.rotated_at) == (expires, rotated)
    assert info.key_id == header[1:5].hex()


@pytest.mark.parametrize("size", [0, 32, 33])
async def test_what_is_no_session(size: int) -> None:
    """Neither a tombstone nor a shorter value is one."""
    manager = SessionManager(Odd(Found(ID, b"\x01" * size, size, 1)), KEY)
    assert await manager.count() == 0
    assert await listed(manager) == {}


async def test_the_connection_is_lost() -> None:
    """A count of a part would be wrong: the error is raised."""
    manager = SessionManager(Odd(Found(ID, b"\x01" * 33, 40, 1), failing=True), KEY)
    with pytest.raises(StoreUnavailableError):
        await manager.count()
    seen: list[str] = []
    with pytest.raises(StoreUnavailableError):
        async for info in manager.sessions():
            seen.append(info.id)  # noqa: PERF401 - it raises
    assert seen == [ID]


Plain: Any = type("Plain", (MemoryStore,), {"scan": None})
"""All of a store but `scan`."""


async def test_a_store_that_cannot() -> None:
    """A store of somebody's own may lack it, and the error says what to write."""
    manager = SessionManager(Plain(), KEY)
    with pytest.raises(ConfigurationError, match=r"Plain can't .* method scan\(\)"):
        await manager.count()
    with pytest.raises(ConfigurationError, match="Enumerable"):
        await anext(manager.sessions())
