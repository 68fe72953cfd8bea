"""Calls of `on_expired=` that take long, or hang: they hold up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import pytest

from redis_sessions import (
    Expired,
)
from redis_sessions.lifecycle.sweep import sweep
from redis_sessions.stores.schedule import Due, schedule_of, shard_of
from tests.support.open import PATIENCE
from tests.unit.expiring import WEEK, Expiring, settle
from tests.unit.setting import ALICE


class Hanging:
    """An application whose calls for Alice never end. `stubborn`: also not when cancelled."""

    def __init__(self, stubborn: bool) -> None:
        self.stubborn = stubborn
        self.calls = list[Expired]()
        self.others = list[Expired]()
        self.other, self.again = asyncio.Event(), asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, expired: Expired) -> None:
        if expired.principal != "alice":
            self.others.append(expired)
            self.other.set()
            return
        self.calls.append(expired)
        if len(self.calls) > 1:
            self.again.set()
        while not self.release.is_set():
            with suppress(asyncio.CancelledError) if self.stubborn else nullcontext():
                await self.release.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - each turn of the loop may fulfil it
            await asyncio.sleep(0)


async def begin_in_one_shard(at: Expiring, *data: dict[str, str]) -> list[str]:
    """The ids of new sessions with these data, all in the shard of the first."""
    ids = list[str]()
    for each in data:
        while True:
            id = (await at.begin(each))[:20]
            if not ids or shard_of(id) == shard_of(ids[0]):
                ids.append(id)
                break
            await settle(at.manager)
            await schedule_of(at.store).end(id)
    await settle(at.manager)
    return ids


@pytest.mark.parametrize("stubborn", [False, True])
async def test_a_call_that_hangs(
    stubborn: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Others of its shard are told meanwhile. It is cancelled, logged, and called again."""
    for name, value in {"EVERY": 0, "SLOW": 0.001, "GRACE": 0.001}.items():
        monkeypatch.setattr(f"redis_sessions.lifecycle.sweep.{name}", value)
    app = Hanging(stubborn)
    at = Expiring(on_expired=app)
    ids = await begin_in_one_shard(at, ALICE, {"user_id": "bob"})
    at.clock.advance(WEEK)
    before = asyncio.all_tasks()
    async with asyncio.timeout(PATIENCE), at.manager.expiring():
        await app.other.wait()  # although the first call may take its time
        assert "failed" not in caplog.text
    assert stubborn or asyncio.all_tasks() == before  # it was cancelled at the end
    assert [each.id for each in app.calls] == ids[:1]
    assert [each.id for each in app.others] == ids[1:]

    monkeypatch.setattr("redis_sessions.lifecycle.sweep.LIMIT", 0.002)
    monkeypatch.setattr("redis_sessions.lifecycle.sweep._RETRY", 0)
    async with asyncio.timeout(PATIENCE), at.manager.expiring():
        app.again.clear()
        app.calls = []
        await app.again.wait()
    assert app.calls[0] == app.calls[1]
    assert f"on_expired failed for the session {ids[0]}, and is called again" in caplog.text
    assert "it took longer than" in caplog.text
    assert at.manager.counts["expiry_failed"] == at.manager.counts["expiry_failed: too slow"] > 0
    assert len(app.others) == 1
    app.release.set()
    await until(lambda: asyncio.all_tasks() == before)  # what went on ends now


async def test_slow_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is made again while it lasts, nor afterwards, and only some last at a time."""
    for name, value in {"EVERY": 0, "SLOW": 0.001, "SLOW_AT_ONCE": 2}.items():
        monkeypatch.setattr(f"redis_sessions.lifecycle.sweep.{name}", value)
    calls, running, most, release = list[str](), 0, 0, asyncio.Event()

    async def slow(expired: Expired) -> None:
        nonlocal running, most
        calls.append(expired.id)
        running += 1
        most = max(most, running)
        await (asyncio.sleep(0.01) if len(calls) <= 2 else release.wait())
        running -= 1

    at = Expiring(on_expired=slow)
    ids = await begin_in_one_shard(at, *[ALICE] * 4)
    at.clock.advance(WEEK)
    schedule = schedule_of(at.store)
    due, found = schedule.due, list[int]()

    async def swept(shard: str, count: int) -> tuple[list[Due], bool]:
        reply = await due(shard, count)
        if shard == shard_of(ids[0]):
            found.append(len(reply[0]))
        return reply

    monkeypatch.setattr(schedule, "due", swept)
    async with asyncio.timeout(PATIENCE), at.manager.expiring():
        await until(lambda: found[-3:] == [2, 2, 2])  # swept again and again meanwhile
        release.set()
        await until(lambda: found[-1] == 0)
    assert sorted(calls) == sorted(ids)
    assert most <= 2


@pytest.mark.parametrize("noting", [False, True])
async def test_a_slow_call_that_ends_with_the_process(
    noting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has done isn't done again. `noting`: its success is being noted at the shutdown."""
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.SLOW", 0.001)
    calls, slow = list[str](), asyncio.Event()
    release, shutdown = asyncio.Event(), asyncio.Event()

    async def on_expired(expired: Expired) -> None:
        calls.append(expired.id)
        await release.wait()
        if not noting:
            shutdown.set()

    at = Expiring(on_expired=on_expired)
    (id,) = await begin_in_one_shard(at, ALICE)
    at.clock.advance(WEEK)
    schedule = schedule_of(at.store)
    remove = schedule.remove

    async def removed(shard: str, entries: Sequence[Due]) -> None:
        shutdown.set()
        for _ in range(9):
            await asyncio.sleep(0)
        await remove(shard, entries)

    async def swept(*arguments: Any) -> None:
        await sweep(*arguments)
        slow.set()  # the call goes on, and the next sweep is seconds away

    monkeypatch.setattr(schedule, "remove", removed)
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.sweep", swept)
    async with asyncio.timeout(PATIENCE):
        async with at.manager.expiring():
            await slow.wait()
            release.set()
            await shutdown.wait()
        await at.sweep()
    assert calls == [id]
