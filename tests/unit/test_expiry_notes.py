"""What requests note in the schedule of ends, and how long they wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from redis_sessions import StoreUnavailableError
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.stores.schedule import schedule_of
from tests.support.open import PATIENCE
from tests.unit.expiring import Expiring
from tests.unit.setting import ALICE, DUE


async def test_a_commit_waits_for_its_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """So notes don't come in faster than they leave. It doesn't wait for long, and fails never."""
    at = Expiring()
    notes, noted = list[asyncio.Future[None]](), asyncio.Event()

    def note(*_: object) -> asyncio.Future[None]:
        notes.append(asyncio.get_running_loop().create_future())
        noted.set()
        return notes[-1]

    monkeypatch.setattr(schedule_of(at.store), "note", note)
    commit = asyncio.create_task(at.begin(ALICE))
    await noted.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not commit.done()
    notes[0].set_exception(StoreUnavailableError("away, says the test"))
    assert await at.data(await commit) == ALICE

    monkeypatch.setattr("redis_sessions.lifecycle.expiry._PATIENCE", 0)
    assert await at.data(await at.begin(ALICE)) == ALICE
    assert not notes[1].done()
    notes[1].set_result(None)


async def test_what_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new session and a touch are; a change leaves the session's time, and the note, as it is."""
    at, noted = Expiring(), list[str]()
    note = schedule_of(at.store).note

    def counted(id: str, *more: Any) -> Awaitable[None]:
        noted.append(id)
        return note(id, *more)

    monkeypatch.setattr(schedule_of(at.store), "note", counted)
    token = await at.begin(ALICE)
    at.clock.advance(60)
    await at.put(token, {"n": 1})
    assert noted == [token[:20]]
    at.clock.advance(DUE)
    await at.put(token, {"n": 2})
    assert noted == [token[:20]] * 2


async def test_a_schedule_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit finds out. The next ones, and revocations, don't wait until a while has passed."""
    at, note = Expiring(), asyncio.get_running_loop().create_future()
    token = await at.begin(ALICE)

    def hang(*_: object) -> asyncio.Future[None]:
        return note

    for name in ("note", "end"):
        monkeypatch.setattr(schedule_of(at.store), name, hang)
    monkeypatch.setattr("redis_sessions.lifecycle.expiry._PATIENCE", 0)
    await at.begin({"cart": [3]})
    monkeypatch.setattr("redis_sessions.lifecycle.expiry._PATIENCE", 3600)

    async with asyncio.timeout(PATIENCE):
        assert await at.data(await at.begin({"cart": [3]})) == {"cart": [3]}
        assert await at.manager.revoke(token[:20], "alice")
    monkeypatch.setattr(backend_of(at.manager).expiry, "_waits_from", 0)
    waiting = asyncio.create_task(at.begin({"cart": [3]}))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    note.set_result(None)
    await waiting


async def test_a_shard_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, although the notes of other shards are written meanwhile."""
    at, failed = Expiring(), asyncio.get_running_loop().create_future()
    failed.set_exception(StoreUnavailableError("WRONGTYPE, says the test"))

    def fail(*_: object) -> asyncio.Future[None]:
        return failed

    for number in range(6):
        with monkeypatch.context() as patch:
            if number % 2:
                patch.setattr(schedule_of(at.store), "note", fail)
            await at.begin(ALICE)
            await asyncio.sleep(0)  # so that it is seen

    assert caplog.text.count("lacks changes") == 1


async def test_a_revocation_waits_for_its_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """When `revoke_all()` returns, the schedule knows of all ends."""
    at, ended = Expiring(), list[str]()
    ids = [(await at.begin(ALICE))[:20] for _ in range(3)]

    async def end(id: str) -> None:
        await asyncio.sleep(0)
        ended.append(id)

    at.clock.advance(1)
    monkeypatch.setattr(schedule_of(at.store), "end", end)
    assert await at.manager.revoke_all("alice") == 3
    assert sorted(ended) == sorted(ids)


async def test_a_rejected_token_is_no_session() -> None:
    """With `on_expired=`, too, a cookie that is no token is an event, and the page is served."""
    at = Expiring()
    reply = await at.request(lambda session: session.get("n"), "no token")
    assert (reply.error, reply.status) == (None, 200)
    assert at.reported("rejected") == ["malformed token"]
