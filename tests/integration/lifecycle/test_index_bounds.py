"""An index of one principal stays small and fast, and nothing that ended is forgotten by that."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import pytest

from redis_sessions import SessionManager, StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.token import SessionToken
from redis_sessions.stores.protocols import EntryStatus
from redis_sessions.testing import store_session
from tests.support.redis_wire import Wire

ALICE: Final = {"user_id": "alice"}
HOUR: Final = 3_600_000
MARKS: Final = 256


def name_of(manager: SessionManager, prefix: str) -> str:
    return f"{prefix}of:{backend_of(manager).keyring.primary.index('alice')}"


async def sign_out(manager: SessionManager, token: str) -> None:
    session = await manager.load(token)
    session.clear()
    await manager.commit(session)


async def test_10_000_sign_ins_and_sign_outs(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """They leave an index of less than 64 kB, and one that works."""

    async def once() -> None:
        await sign_out(manager, await store_session(manager, ALICE))

    for _ in range(50):
        await asyncio.gather(*(once() for _ in range(200)))
    name = name_of(manager, prefix)
    assert int(redis.ask("MEMORY", "USAGE", name, "SAMPLES", "0")) < 64 * 1024
    token = await store_session(manager, ALICE)
    assert [info.id for info in await manager.sessions_of("alice")] == [token[:20]]
    assert await manager.revoke_all("alice") == 1


async def test_revoke_all_is_done_with_its_first_step(manager: SessionManager) -> None:
    """Where it is broken off after that, each session ends when its touch is due, at the latest."""
    tokens = [await store_session(manager, ALICE) for _ in range(3)]
    await backend_of(manager).index.revoke("alice", keep=tokens[0][:20])
    # A sign-in is told from one that was overtaken if its reply is faster than this takes.
    assert len(await manager.sessions_of("alice")) == 3
    later = await store_session(manager, ALICE)
    key = backend_of(manager).keyring.primary.index("alice")
    for token, status in zip(
        (*tokens, later),
        (EntryStatus.LIVE, *[EntryStatus.ENDED] * 2, EntryStatus.LIVE),
        strict=True,
    ):
        session = await manager.load(token)
        assert session.authenticated_at is not None
        at = round(session.authenticated_at.timestamp() * 1000)
        assert await manager.store.ask(key, token[:20], authenticated=at) is status
    assert await manager.revoke_all("alice", keep=later[:20]) == 3


async def test_revoke_all_of_more_than_one_page(manager: SessionManager) -> None:
    """3,000 sessions end, some hundred at a time, and who signs in meanwhile is left alone."""
    tokens = list[str]()
    for _ in range(10):
        tokens += await asyncio.gather(*(store_session(manager, ALICE) for _ in range(300)))
    ending = asyncio.ensure_future(manager.revoke_all("alice"))
    later = list[str]()
    while not ending.done():
        await asyncio.sleep(0)
        session = await manager.load()
        if "revoked" not in manager.counts:
            session["user_id"] = "alice"
            try:
                answer = await manager.commit(session)
            except StoreUnavailableError:
                assert not manager.counts["created"] - 3000 - len(later)  # it began before
            else:
                assert answer.token is not None
                later.append(answer.token.value)
    assert await ending == 3000
    assert not any(await asyncio.gather(*(manager.load(token) for token in tokens[::100])))
    assert all(await asyncio.gather(*(manager.load(token) for token in later)))


async def test_a_sign_in_right_after_a_revocation(manager: SessionManager) -> None:
    """A request that begins when revoke_all was answered signs in, however soon that is."""
    for _ in range(50):
        await manager.revoke_all("alice")
        session = await manager.load()
        session["user_id"] = "alice"
        answer = await manager.commit(session)
        assert answer.token is not None
        assert dict(await manager.load(answer.token.value)) == ALICE


async def test_the_index_outlives_its_longest_session(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """A short session that signs in, is touched or ends doesn't shorten the index's life."""
    session = await manager.load()
    session["user_id"] = "alice"
    session.expire_in(300 * 24 * 3600)
    await manager.commit(session)
    name, key = name_of(manager, prefix), backend_of(manager).keyring.primary.index("alice")
    long, id = 299 * 24 * HOUR, SessionToken.generate().id
    await manager.store.enter(key, id, age=0, own=-1, ttl=1000, descriptor=b"")
    assert redis.ask("PTTL", name) > long
    await manager.store.touch(key, id, authenticated=2**42, ttl=1000, descriptor=b"")
    assert redis.ask("PTTL", name) > long
    await manager.store.mark(key, id, ttl=1000)
    assert redis.ask("PTTL", name) > long
    await manager.store.revoke(key, keep=None, memory=1000)
    assert redis.ask("PTTL", name) > long


async def test_marks_make_room_without_losing_an_end(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """A session that ended longest ago, whose record and entry come back, ends at its touch."""
    token = await store_session(manager, ALICE)
    session = await manager.load(token)
    assert session.authenticated_at is not None
    at = round(session.authenticated_at.timestamp() * 1000)
    await sign_out(manager, token)
    key = backend_of(manager).keyring.primary.index("alice")
    mark = partial(manager.store.mark, key, ttl=HOUR)
    await asyncio.gather(*(mark(SessionToken.generate().id) for _ in range(MARKS)))
    touched, _ = await manager.store.touch(
        key, token[:20], authenticated=at, ttl=HOUR, descriptor=b""
    )
    assert touched.status is EntryStatus.ENDED


async def test_no_mark_is_missed_where_ids_look_alike(manager: SessionManager) -> None:
    """A mark is found by its place, not by any text that looks like the id."""
    key = backend_of(manager).keyring.primary.index("alice")
    await manager.store.mark(key, "9" * 20, ttl=HOUR)
    for other in ("0" * 20, "1" * 20, "9" * 19 + "1"):
        assert await manager.store.ask(key, other, authenticated=2**52) is EntryStatus.MISSING
    await manager.store.mark(key, "1" * 20, ttl=HOUR)
    for id in ("9" * 20, "1" * 20):
        assert await manager.store.ask(key, id, authenticated=2**52) is EntryStatus.ENDED


@pytest.mark.parametrize("value", [("SET", "x"), ("RPUSH", "x"), ("SADD", "x")])
async def test_a_key_of_another_type(
    manager: SessionManager, redis: Wire, prefix: str, value: tuple[str, str]
) -> None:
    """Something else under an index's name is no index, and the next write makes one of it."""
    name = name_of(manager, prefix)
    command, text = value
    redis.ask(command, name, text)
    assert await manager.sessions_of("alice") == []
    assert await manager.revoke("x" * 20, principal="alice") is False
    redis.ask("DEL", name)
    redis.ask(command, name, text)
    token = await store_session(manager, ALICE)
    assert [info.id for info in await manager.sessions_of("alice")] == [token[:20]]


async def test_revoking_a_session_whose_entry_was_lost(
    manager: SessionManager, redis: Wire, prefix: str
) -> None:
    """It isn't known whose it is: False, and it ends at its touch; somebody else's lives on."""
    token, other = await store_session(manager, ALICE), await store_session(manager, {"user_id": 2})
    redis.ask("DEL", name_of(manager, prefix))
    assert await manager.revoke(token[:20], principal="alice") is False
    for _ in range(3):  # the mark that this leaves makes nobody its owner
        assert await manager.revoke(other[:20], principal="alice") is False
    key = backend_of(manager).keyring.primary.index("alice")
    touched, _ = await manager.store.touch(
        key, token[:20], authenticated=2**42, ttl=HOUR, descriptor=b""
    )
    assert touched.status is EntryStatus.ENDED
    assert [info.id for info in await manager.sessions_of(2)] == [other[:20]]
    assert await manager.revoke("n" * 20, principal="bob") is False  # nothing is there
    assert (
        redis.ask("EXISTS", f"{prefix}of:{backend_of(manager).keyring.primary.index('bob')}") == 0
    )
