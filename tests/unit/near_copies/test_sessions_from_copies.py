"""A session from a near copy is judged, changed and ended as one that was just read."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from redis_sessions import Keyring, Session, SessionManager, generate_key
from redis_sessions.session.record import tombstone
from redis_sessions.stores.protocols import NearCopy
from tests.unit.near_copies.near import Process, Processes, adding
from tests.unit.setting import DUE, token_of

FOREVER = 10**12
"""Milliseconds for which the store keeps a record, so that the record's own times decide."""


def browser(connection: HTTPConnection) -> str:
    """Bound to the browser."""
    return connection.headers["user-agent"]


def reasons(process: Process, name: str) -> list[str | None]:
    return [event.reason for event in process.events if event.name == name]


@pytest.mark.parametrize("option", ["idle_timeout", "max_age"])
@pytest.mark.parametrize(("after", "loads"), [(99.999, 0), (100, 1)])
async def test_at_its_exact_end(option: str, after: float, loads: int) -> None:
    """A copy serves until the session's end. Then the store is asked, and it is reported."""
    at = Processes(**{option: 100})
    token = await at.begin(n=1)
    copy = at.here.store.copies[token[:20]]
    await at.here.store.commit(token[:20], copy.value[:33], copy.value, FOREVER)
    at.clock.advance(after)
    assert await at.here.asked(at.here.visit(token)) == ({} if loads else {"n": 1}, loads)
    assert reasons(at.here, "rejected") == ["expired"] * loads


async def test_a_touch_elsewhere_goes_on() -> None:
    """A copy that has come to its end isn't the last word: another process may have touched it."""
    at = Processes(idle_timeout=100)
    token = await at.begin(n=1)
    at.clock.advance(50)
    await at.there.visit(token)
    assert at.there.manager.counts["touched"] == 1
    at.clock.advance(60)
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 1)


async def test_a_due_touch_is_committed(at: Processes) -> None:
    """A session that is only ever read from copies stays alive, since its touches are stored."""
    token = await at.begin(user_id="alice")
    at.clock.advance(DUE)
    assert await at.here.asked(at.here.visit(token)) == ({"user_id": "alice"}, 0)
    assert at.here.manager.counts["touched"] == 1
    assert await at.here.asked(at.here.visit(token)) == ({"user_id": "alice"}, 0)
    assert at.here.manager.counts["touched"] == 1


async def test_how_somebody_signed_in(at: Processes) -> None:
    """A copy has the methods of its record."""
    session = await at.here.manager.load(None)
    session.sign_in("alice", methods=["pwd", "otp"])
    token = token_of(await at.here.manager.commit(session))
    visit = at.here.visit(token, lambda session: session.authentication_methods)
    assert await at.here.asked(visit) == (("pwd", "otp"), 0)


async def test_who_is_bound_elsewhere(at: Processes) -> None:
    """A stolen cookie opens no copy. The store is asked, and the mismatch is reported."""
    session = await at.here.manager.load(None, bound="Firefox")
    session["n"] = 1
    token = token_of(await at.here.manager.commit(session))
    mine = at.here.visit(token, binding=browser, agent=b"Firefox")
    assert await at.here.asked(mine) == ({"n": 1}, 0)
    other = at.here.visit(token, binding=browser, agent=b"Chrome")
    assert await at.here.asked(other) == ({}, 1)
    assert reasons(at.here, "rejected") == ["bound elsewhere"]


async def test_who_is_bound_elsewhere_and_reported() -> None:
    """With on_binding_mismatch="report" each request from elsewhere is reported."""
    at = Processes(on_binding_mismatch="report")
    session = await at.here.manager.load(None, bound="Firefox")
    session["n"] = 1
    token = token_of(await at.here.manager.commit(session))
    for _ in range(2):
        await at.here.visit(token, binding=browser, agent=b"Chrome")
    assert at.here.manager.counts["bound_elsewhere"] == 2


async def test_a_change_on_an_old_copy_is_merged(at: Processes) -> None:
    """What another process has stored meanwhile stays, and the change is put on top of it."""
    token = await at.begin(a=1, b=1)
    await at.there.visit(token, adding(a=2))
    assert (await at.here.visit(token, adding(b=2)))[0] == {"a": 1, "b": 1}
    assert dict(await at.there.manager.load(token)) == {"a": 2, "b": 2}
    assert at.here.manager.counts["merged"] == 1


async def test_a_change_on_a_copy_of_what_has_ended(at: Processes) -> None:
    """A change brings back nothing that another process has ended."""
    token = await at.begin(a=1)
    await at.there.visit(token, Session.clear)
    assert (await at.here.visit(token, adding(b=2)))[0] == {"a": 1}
    assert reasons(at.here, "dropped") == ["ended elsewhere"]
    assert await at.here.asked(at.here.visit(token)) == ({}, 1)


async def test_a_sign_out_on_an_old_copy(at: Processes) -> None:
    """A sign-out ends the session, also if another process has changed it since."""
    token = await at.begin(user_id="alice", a=1)
    await at.there.visit(token, adding(a=2))
    await at.here.visit(token, Session.sign_out)
    at.there.store.copies.clear()
    assert (await at.there.visit(token))[0] == {}


async def test_what_was_ended_here_is_gone_here(at: Processes) -> None:
    """The process that answered a sign-out or a rotation serves the old token no more."""
    for act in (Session.clear, Session.rotate):
        token = await at.begin(a=1)
        await at.here.visit(token, act)
        assert await at.here.asked(at.here.visit(token)) == ({}, 1)


async def test_bytes_that_do_not_open(at: Processes) -> None:
    """A copy that is damaged, or no record, counts as none: the store is asked."""
    token = await at.begin(n=1)
    good = at.here.store.copies[token[:20]].value
    for bad in (
        good[:-1],
        good[:40] + bytes([good[40] ^ 1]) + good[41:],
        good[:33],
        tombstone(1),
        b"",
        b"x",
    ):
        at.here.store.copies[token[:20]] = copy = NearCopy(bad)
        assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 1)
        assert copy.opened is None
    assert reasons(at.here, "rejected") == []


async def test_a_copy_is_opened_once(at: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened is kept with the copy, so that further requests open nothing."""
    token = await at.begin(n=1)
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)
    monkeypatch.setattr("redis_sessions.session.record.Sealer.open", None)
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)


@pytest.mark.parametrize("act", [adding(n=2), Session.rotate], ids=["change", "rotation"])
async def test_what_was_stored_needs_no_opening(
    at: Processes, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    """The copy of what this process has just stored comes with what is in it."""
    token = await at.begin(n=1)
    _, reply = await at.here.visit(token, act)
    sent = next((text for text in reply.cookies if "-fresh=" not in text), None)
    token = token if sent is None else sent.partition(";")[0].partition("=")[2]
    monkeypatch.setattr("redis_sessions.session.record.Sealer.open", None)
    result, loads = await at.here.asked(at.here.visit(token))
    assert (list(result), loads) == (["n"], 0)


async def test_another_managers_copies(at: Processes) -> None:
    """A manager with other keys over the same store doesn't get what the first one has opened."""
    token = await at.begin(n=1)
    await at.here.visit(token)
    assert at.here.store.copies[token[:20]].opened
    mine, theirs = at.here.manager, SessionManager(at.here.store, Keyring(generate_key()))
    at.here.manager = theirs
    assert await at.here.asked(at.here.visit(token)) == ({}, 1)
    at.here.manager = mine
    assert await at.here.asked(at.here.visit(token)) == ({"n": 1}, 0)


async def test_the_principal_is_kept_with_what_was_opened(at: Processes) -> None:
    """A change of a session from a copy knows who is signed in, as the index's entry shows."""
    token = await at.begin(user_id="alice")
    for _ in range(2):
        assert (await at.here.visit(token, lambda session: session.principal))[0] == "alice"
    await at.here.visit(token, Session.sign_out)
    assert await at.here.manager.sessions_of("alice") == []
