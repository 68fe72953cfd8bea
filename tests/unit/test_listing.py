"""The sessions of a principal as they are listed, over a store in memory."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import pytest

from redis_sessions import ConfigurationError, SessionInfo, SessionManager
from redis_sessions.lifecycle.manager import backend_of
from tests.unit.setting import ALICE, DUE, Setting
from tests.unit.visits import Peer, ids, in_request, signed_in, visit

FIREFOX: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
SAFARI: Final = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)


async def test_nobody_has_no_sessions(at: Setting) -> None:
    """A principal that never signed in has none; revoking nothing ends nothing."""
    assert await at.manager.sessions_of("alice") == []
    assert await at.manager.revoke_all("alice") == 0
    assert await at.manager.revoke("x" * 20, principal="alice") is False


async def test_what_is_shown(at: Setting) -> None:
    """Created, authenticated, last seen, expiring, address, user agent; the last seen first."""
    began = datetime.fromtimestamp(at.clock.now, UTC)
    first = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    at.clock.advance(100)
    second = await signed_in(at, peer=Peer("2001:db8::1", SAFARI))
    newest, oldest = await at.manager.sessions_of("alice")
    assert (newest.id, newest.address, newest.user_agent) == (second[:20], "2001:db8::1", SAFARI)
    assert oldest == SessionInfo(
        id=first[:20],
        current=False,
        authenticated_at=began,
        last_seen_at=began,
        expires_at=began + timedelta(days=14),
        created_at=began,
        address="192.0.2.1",
        user_agent=FIREFOX,
    )
    at.clock.advance(DUE)
    await visit(at, first)
    newest, _ = await at.manager.sessions_of("alice")
    seen = began + timedelta(seconds=100 + DUE)
    assert (newest.id, newest.last_seen_at, newest.created_at) == (first[:20], seen, began)
    assert newest.address == "192.0.2.1"  # nobody said who asked: what was known stays


async def test_a_touch_tells_from_where(at: Setting) -> None:
    """The address and the browser are those of the last touch."""
    token = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    at.clock.advance(DUE)
    await visit(at, token, Peer("192.0.2.2", SAFARI))
    (info,) = await at.manager.sessions_of("alice")
    assert (info.address, info.user_agent) == ("192.0.2.2", SAFARI)


async def test_the_current_one(at: Setting) -> None:
    """In a request its own session is marked as the current one."""
    token, _ = await signed_in(at), await signed_in(at)
    session = await at.load(token)
    with in_request(session):
        shown = await at.manager.sessions_of("alice")
    assert {info.id: info.current for info in shown} == {
        info.id: info.id == token[:20] for info in shown
    }
    assert len(shown) == 2


async def test_another_managers_session_is_not_the_current_one(at: Setting) -> None:
    """Two managers serve one request: each knows its own session only."""
    other = SessionManager(at.store, backend_of(at.manager).keyring, clock=at.clock)
    token = await signed_in(at)
    session = await other.load(token)
    with in_request(session):
        (info,) = await at.manager.sessions_of("alice")
        await at.manager.revoke_all("alice")
    assert not info.current
    assert session == ALICE


@pytest.mark.parametrize(
    ("agent", "browser", "system"),
    [
        (FIREFOX, "Firefox 140", "Linux"),
        (SAFARI, "Mobile Safari 17", "iOS 17"),
        ("no browser at all", None, None),
        ("", None, None),
        (None, None, None),
    ],
    ids=["Firefox", "Safari", "unknown", "empty", "none"],
)
def test_the_browser_in_words(agent: str | None, browser: str | None, system: str | None) -> None:
    """The browser and the system are told in words, or not at all."""
    now = datetime.now(UTC)
    info = SessionInfo(
        id="x" * 20,
        current=False,
        authenticated_at=now,
        last_seen_at=now,
        expires_at=now,
        created_at=None,
        address=None,
        user_agent=agent,
    )
    assert (info.browser, info.system) == (browser, system)


async def test_a_long_user_agent_is_cut(at: Setting) -> None:
    """What a client sends can't fill the index."""
    await signed_in(at, peer=Peer("192.0.2.1", "x" * 10_000))
    (info,) = await at.manager.sessions_of("alice")
    assert info.user_agent == "x" * 256


async def test_dead_entries_are_not_shown(at: Setting) -> None:
    """An entry without a record, or with a tombstone, is no session."""
    lost, ended, live = [await signed_in(at) for _ in range(3)]
    at.store.lose_record(lost[:20])
    await at.store.end(ended[:20], b"\x01" + bytes(32), 30_000)
    assert await ids(at) == [live[:20]]


async def descriptor(at: Setting, token: str) -> bytes:
    """What the index has to describe a session of Alice's."""
    _, entries = await at.store.entries(backend_of(at.manager).keyring.primary.index("alice"))
    return next(entry.descriptor for entry in entries if entry.id == token[:20])


async def describe(at: Setting, token: str, descriptor: bytes) -> None:
    """Write another description of the session into the index."""
    key = backend_of(at.manager).keyring.primary.index("alice")
    await at.store.enter(key, token[:20], age=0, own=-1, ttl=60_000, descriptor=descriptor)


DAMAGE: Final[dict[str, Callable[[bytes], bytes]]] = {
    "empty": lambda sealed: b"",
    "truncated": lambda sealed: sealed[:-1],
    "short": lambda sealed: sealed[:10],
    "flipped": lambda sealed: sealed[:40] + bytes([sealed[40] ^ 1]) + sealed[41:],
    "another key's": lambda sealed: b"\0\0\0\0" + sealed[4:],
    "noise": lambda sealed: b"\xff" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damaged_descriptors(at: Setting, damage: Callable[[bytes], bytes]) -> None:
    """A descriptor that doesn't open leaves its fields empty; the session is listed."""
    token = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    await describe(at, token, damage(await descriptor(at, token)))
    (info,) = await at.manager.sessions_of("alice")
    assert (info.id, info.created_at, info.address, info.user_agent) == (
        token[:20],
        None,
        None,
        None,
    )
    assert (info.browser, info.system) == (None, None)


async def test_a_descriptor_of_another_session(at: Setting) -> None:
    """A descriptor that was moved to another id doesn't open there."""
    one = await signed_in(at, peer=Peer("192.0.2.1", FIREFOX))
    two = await signed_in(at, peer=Peer("192.0.2.2", SAFARI))
    await describe(at, one, await descriptor(at, two))
    shown = {info.id: info.address for info in await at.manager.sessions_of("alice")}
    assert shown == {one[:20]: None, two[:20]: "192.0.2.2"}


@pytest.mark.parametrize(
    "principal",
    [7, "7", UUID(int=7)],
    ids=["int", "str", "UUID"],
)
async def test_principals_in_any_form(at: Setting, principal: str | int | UUID) -> None:
    """A principal is the same whether it is an int, a UUID or their text."""
    await signed_in(at, str(principal))
    assert len(await at.manager.sessions_of(principal)) == 1
    assert await at.manager.revoke_all(principal) == 1


@pytest.mark.parametrize("principal", [None, True, 1.5, ["a"], {"a": 1}])
async def test_what_is_no_principal(at: Setting, principal: Any) -> None:
    """What can't be a principal is refused, rather than taken for somebody without sessions."""
    with pytest.raises(ConfigurationError):
        await at.manager.sessions_of(principal)
    with pytest.raises(ConfigurationError):
        await at.manager.revoke_all(principal)
