"""Events of sign-ins and sign-outs, and what events tell of people if they are asked to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import pytest
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from redis_sessions import (
    Event,
    Keyring,
    MemoryStore,
    Session,
    SessionGoneError,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
    get_session,
    log_events,
)
from redis_sessions.http.binding import client_ip
from redis_sessions.testing import store_session
from tests.support.asgi import ask, cookie
from tests.unit.setting import KEY, START, Setting
from tests.unit.visits import Peer, from_peer, in_request, signed_in

HERE: Final = Peer("192.0.2.7", "Firefox 140")
ELSEWHERE: Final = Peer("198.51.100.9", "curl")

Act = Callable[[Session], object]


def told(at: Setting, *names: str) -> list[tuple[str, str | None, str | None]]:
    """The events of these names: name, reason and principal."""
    return [(e.name, e.reason, e.principal) for e in at.events if e.name in names]


def signs(at: Setting) -> list[tuple[str, str | None, str | None]]:
    return told(at, "signed_in", "signed_out")


async def life(at: Setting, *acts: Act) -> list[str]:
    """A browser does these things, one after the other. The ids that it has after each."""
    token, ids = None, list[str]()
    for act in acts:
        reply = await from_peer(at, HERE, act, token)
        if reply.cookies:
            token = None if "1970" in reply.cookies[0] else reply.token.value
        ids.append(token[:20] if token else "")
    return ids


def set_user(name: str | None) -> Act:
    return lambda session: session.update(user_id=name)


def clear_and_sign_in(session: Session) -> None:
    session.clear()
    session.sign_in("ada")


LIVES: Final[dict[str, tuple[list[Act], list[tuple[str, str, str]]]]] = {
    "by methods": (
        [lambda s: s.sign_in("ada"), lambda s: s.sign_out()],
        [("signed_in", "gain", "ada"), ("signed_out", "signed out", "ada")],
    ),
    "by assignments": (
        [lambda s: s.update(cart=1), set_user("ada"), set_user(None)],
        [("signed_in", "gain", "ada"), ("signed_out", "signed out", "ada")],
    ),
    "again": (
        [lambda s: s.sign_in("ada"), lambda s: s.sign_in("ada"), lambda s: s.authenticated()],
        [("signed_in", how, "ada") for how in ("gain", "reauthenticate", "reauthenticate")],
    ),
    "another": (
        [lambda s: s.sign_in("ada"), lambda s: s.sign_in("bob")],
        [
            ("signed_in", "gain", "ada"),
            ("signed_out", "switched", "ada"),
            ("signed_in", "switch", "bob"),
        ],
    ),
    "cleared": (
        [lambda s: s.sign_in("ada"), lambda s: s.clear()],
        [("signed_in", "gain", "ada"), ("signed_out", "cleared", "ada")],
    ),
    "cleared and in again": (
        [lambda s: s.sign_in("ada"), clear_and_sign_in],
        [
            ("signed_in", "gain", "ada"),
            ("signed_out", "cleared", "ada"),
            ("signed_in", "gain", "ada"),
        ],
    ),
    "nobody": (
        [lambda s: s.update(cart=1), lambda s: s.rotate(), lambda s: s.clear()],
        [],
    ),
    "rotated": (
        [lambda s: s.sign_in("ada"), lambda s: s.rotate(), lambda s: s.update(n=1)],
        [("signed_in", "gain", "ada")],
    ),
}


@pytest.mark.parametrize("name", LIVES)
async def test_who_signs_in_and_out(name: str) -> None:
    """Each sign-in and sign-out is an event, with the reason, the user, the client and the id."""
    acts, expected = LIVES[name]
    at = Setting(personal_events=True)
    ids = await life(at, *acts)

    assert signs(at) == expected
    for event in at.events:
        if event.name in ("signed_in", "signed_out"):
            assert (event.address, event.user_agent) == HERE
            assert event.id in ids


@pytest.mark.standard(34, "ASVS 16.2.5")
@pytest.mark.parametrize("personal", [False, True])
async def test_nothing_personal_unless_asked_for(personal: bool) -> None:
    """Without the option no event has a user, an address or a browser; never is there a secret."""
    at = Setting(personal_events=personal)
    tokens = [await signed_in(at, "ada", HERE) for _ in range(3)]
    await from_peer(at, HERE, lambda s: s.sign_out(), tokens[0])
    await from_peer(at, HERE, dict, tokens[0])
    await at.manager.revoke(tokens[1][:20], "ada")
    await at.manager.revoke_all("ada")

    text = repr(at.events)
    assert {"signed_in", "signed_out", "revoked", "rejected"} <= {e.name for e in at.events}
    for word in ("ada", *HERE):
        assert (word in text) is personal
    for token in tokens:
        assert token[20:] not in text
    assert [e.id for e in at.events if e.name == "signed_in"] == [t[:20] for t in tokens]


async def test_who_is_revoked() -> None:
    """A revocation tells whose sessions ended, and the client of the request that did it."""
    at = Setting(personal_events=True)
    one, kept = await signed_in(at), await signed_in(at)
    assert await at.manager.revoke(one[:20], "alice")
    assert not await at.manager.revoke(one[:20], "bob")
    session = await at.load(kept)
    with in_request(session):
        await at.manager.revoke_all("alice", keep=kept[:20])

    async def end_all(session: Session) -> None:
        await at.manager.revoke_all("alice")

    await from_peer(at, HERE, end_all, kept)
    assert [e for e in at.events if e.name == "revoked"] == [
        Event("revoked", "one", one[:20], "alice"),
        Event("revoked", "all but one", kept[:20], "alice"),
        Event("revoked", "all", None, "alice", *HERE),
    ]
    assert told(at, "signed_out") == []


@pytest.mark.parametrize("lazy", [False, True])
async def test_whose_token_is_rejected(lazy: bool) -> None:
    """A rejection tells the client; and the user if the record opens, as it does elsewhere."""
    at = Setting(personal_events=True)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = get_session(HTTPConnection(scope))
        await session.refresh()
        if scope["path"] == "/in":
            session.sign_in("ada")
        await send(START)
        await send({"type": "http.response.body", "body": b""})

    site = SessionMiddleware(app, manager=at.manager, binding=client_ip(), lazy=lazy)

    async def come(peer: Peer, token: str, path: str = "/") -> str:
        headers = [(b"user-agent", peer.user_agent.encode()), (b"cookie", cookie(token))]
        reply = await ask(site, headers, path=path, client=(peer.address, 1))
        return reply.checked().token.value if path == "/in" else ""

    token = await come(HERE, "", "/in")
    at.events.clear()
    await come(HERE, token)
    assert at.events == []
    await come(ELSEWHERE, token)
    await come(ELSEWHERE, token[:20] + "x" * 44)
    await come(ELSEWHERE, "made-up")
    id = token[:20]
    assert at.events == [
        Event("rejected", "bound elsewhere", id, "ada", *ELSEWHERE),
        Event("rejected", "authentication failed", id, None, *ELSEWHERE),
        Event("rejected", "malformed token", None, None, *ELSEWHERE),
    ]
    at.events.clear()
    headers = [(b"user-agent", b"curl"), (b"sec-fetch-site", b"cross-site")]
    headers.append((b"cookie", cookie(token)))
    await ask(site, headers, method="POST", client=(ELSEWHERE.address, 1))
    assert at.events == [Event("rejected", "cross-site", None, None, *ELSEWHERE)]
    at.events.clear()
    await at.load("y" * 64)  # by no request
    assert at.events == [Event("rejected", "unknown id", "y" * 20)]


async def test_who_comes_from_elsewhere_and_is_let_through() -> None:
    """So does an event that only reports another place."""
    at = Setting(personal_events=True, on_binding_mismatch="report")
    session = await at.manager.load(bound="here")
    session.sign_in("ada")
    token = (await at.commit(session)).token
    assert token is not None
    at.events.clear()
    await at.manager.load(token.value, bound="elsewhere")
    assert at.events == [Event("bound_elsewhere", None, token.id, "ada")]


async def test_a_session_that_ended_during_the_request() -> None:
    """What `refresh()` finds has the client of the request, too."""
    at = Setting(personal_events=True)
    token = await signed_in(at)

    async def end_by_another(session: Session) -> None:
        other = SessionManager(at.store, Keyring(KEY), clock=at.clock)
        await other.revoke_all("alice")
        with pytest.raises(SessionGoneError):
            await session.refresh()

    await from_peer(at, HERE, end_by_another, token)
    assert [e for e in at.events if e.name == "rejected"] == [
        Event("rejected", "tombstone", token[:20], None, *HERE)
    ]


@pytest.mark.parametrize("failing", ["enter", "commit", "end"])
async def test_what_failed_is_no_sign_in(failing: str) -> None:
    """The event comes once all is stored: a sign-in that got 503 or failed is none."""
    at = Setting(personal_events=True)
    token = await signed_in(at, "bob")
    at.events.clear()

    def act(session: Session) -> None:
        session.sign_in("ada")
        at.store.failing = {failing}

    reply = await at.request(act, token)
    assert reply.status == 503 or isinstance(reply.error, StoreUnavailableError)
    assert signs(at) == []


async def test_who_was_signed_out_already_is_not_again() -> None:
    """Another request was faster: its event is the only one."""
    at = Setting(personal_events=True)
    token = await signed_in(at)
    first, second = await at.load(token), await at.load(token)
    for session in (first, second):
        session.clear()
        await at.commit(session)
    assert told(at, "signed_out") == [("signed_out", "cleared", "alice")]


async def test_long_texts_of_clients_are_cut() -> None:
    """A client that sends a long one fills no log with it, nor does a forwarded address."""
    at = Setting(personal_events=True)
    await signed_in(at, "ada", Peer("1" * 5000, "a" * 5000))
    [event] = [event for event in at.events if event.name == "signed_in"]
    assert (event.address, event.user_agent) == ("1" * 256, "a" * 256)


async def test_personal_fields_in_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """They are attributes of the record, and never in its text, which an address can't forge."""
    caplog.set_level(logging.INFO)
    on_event = log_events()
    manager = SessionManager(MemoryStore(), KEY, on_event=on_event, personal_events=True)
    await store_session(manager, {"user_id": "ada"})
    on_event(Event("signed_in", "gain", "x" * 20, "ada", "192.0.2.7", "Fire\nfox"))

    created, own, given = caplog.records
    fields: list[dict[str, Any]] = [
        {name: value for name, value in vars(record).items() if name.startswith("session_")}
        for record in (created, own, given)
    ]
    assert set(fields[0]) == {"session_event", "session_reason", "session_id"}
    assert fields[1]["session_principal"] == "ada"
    assert "session_address" not in fields[1]
    assert fields[2]["session_address"] == "192.0.2.7"
    assert fields[2]["session_user_agent"] == "Fire\nfox"
    assert given.getMessage() == f"session event signed_in: reason=gain id={'x' * 20}"


async def test_nobody_listens() -> None:
    """Without `on_event` nobody is asked who the client is."""
    manager = SessionManager(MemoryStore(), KEY, personal_events=True)
    await store_session(manager, {"user_id": "ada"})
    assert manager.counts["signed_in: gain"] == 1
