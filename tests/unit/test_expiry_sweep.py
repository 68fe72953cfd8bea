"""How the schedule is swept: crashes, errors, nodes that are away, and who leads."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractAsyncContextManager

import pytest
from starlette.types import Message, Receive, Scope, Send

from redis_sessions import (
    ConfigurationError,
    Event,
    Expired,
    MemoryStore,
    SessionManager,
    SessionMiddleware,
    StoreUnavailableError,
)
from redis_sessions.lifecycle.expiry import Expiry, OnExpired
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.sweep import AT_ONCE, LEADER, STEP, running, sweep
from redis_sessions.session.record import TOMBSTONE_TTL
from redis_sessions.stores.schedule import Due, schedule_of, shard_of
from redis_sessions.testing import Clock
from redis_sessions.testing.conformance import new_id
from tests.support.open import PATIENCE
from tests.unit.expiring import WEEK, Expiring, settle
from tests.unit.setting import ALICE, KEY


async def test_a_crash_before_it_is_noted_that_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told again: at least once, with the same id and end."""
    at = Expiring()
    await at.begin(ALICE)

    async def crash(shard: str, entries: object) -> None:
        raise StoreUnavailableError("the process was killed, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "remove", crash)
        with pytest.raises(StoreUnavailableError):
            await at.after(WEEK)

    told = [*at.told]
    assert len(told) == 1
    assert await at.sweep() == told
    assert await at.sweep() == []


async def test_a_callable_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """It is called again, each time later, with the same event; others are told meanwhile."""
    tries = list[tuple[int, Expired]]()

    def told(expired: Expired) -> None:
        if expired.principal == "alice":
            tries.append((int(at.clock.now - begun) - WEEK, expired))
            if len(tries) < 4:
                raise RuntimeError("not now")
        else:
            at.told.append(expired)

    at = Expiring(on_expired=told)
    begun = at.clock.now
    await at.begin(ALICE)
    await at.begin({"user_id": "bob"})
    assert [each.principal for each in await at.after(WEEK)] == ["bob"]
    for _ in range(60):
        await at.after(1)

    assert [second for second, _ in tries] == [0, 5, 15, 35]
    assert len({expired for _, expired in tries}) == 1
    assert "is called again in 20 seconds" in caplog.text
    failed = [event for event in at.events if event.name == "expiry_failed"]
    assert failed == [Event("expiry_failed", "raised", tries[0][1].id)] * 3
    assert "alice" not in caplog.text.replace("not now", "")


async def test_what_is_no_session() -> None:
    """Whatever else somebody has put there is removed: it would be in the way of the others."""
    at, strange = Expiring(), "no id"
    schedule = schedule_of(at.store)
    await schedule.note(strange, 0, b"x")
    assert await at.sweep() == []
    assert await schedule.due(shard_of(strange), STEP) == ([], False)


async def test_an_application_that_fails_for_long() -> None:
    """The count of its failures stays small: the pause is computed from it, and is an hour."""

    def fail(_: Expired) -> None:
        raise RuntimeError("it fails, says the test")

    at = Expiring(on_expired=fail)
    id, expiry = (await at.begin(ALICE))[:20], backend_of(at.manager).expiry
    assert expiry is not None
    for _ in range(25):
        await at.after(WEEK)
    at.clock.advance(WEEK)
    ((due,), _) = await expiry.schedule.due(shard_of(id), STEP)
    assert expiry.opened(due)[2] == 20


async def test_a_schedule_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests go on, and the log says so."""
    at = Expiring()

    async def fail(*_: object) -> None:
        raise StoreUnavailableError("away, says the test")

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "note", fail)
        patch.setattr(schedule_of(at.store), "end", fail)
        token = await at.begin(ALICE)
        session = await at.load(token)
        session.clear()
        await at.commit(session)
        await settle(at.manager)

    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the schedule for on_expired= lacks changes: away" in caplog.text


async def test_many_at_once() -> None:
    """They are told in steps, each once."""
    at = Expiring()
    ids = list[str]()
    while len(ids) < STEP + AT_ONCE + 1:  # in one shard
        if shard_of(id := new_id()) == "7":
            ids.append(id)
            await schedule_of(at.store).note(id, 1000, b"x")

    assert sorted(each.id for each in await at.after(1)) == sorted(ids)


async def test_a_sign_out_while_others_are_told() -> None:
    """It isn't told as an expiry, although its tombstone has gone by the time of its turn."""
    at = Expiring()

    async def on_expired(expired: Expired) -> None:
        at.told.append(expired)
        if len(at.told) == 1:
            session = await at.load(token)
            session.clear()
            await at.commit(session)
            at.clock.advance(TOMBSTONE_TTL + 1)

    at = Expiring(on_expired=on_expired)
    token = await at.begin(ALICE)
    await settle(at.manager)
    shard, schedule, ids = shard_of(token[:20]), schedule_of(at.store), list[str]()
    await schedule.note(token[:20], 1000, b"x")  # as if a note about its last touch had been lost
    while len(ids) < AT_ONCE:
        if shard_of(id := new_id()) == shard:
            ids.append(id)
            await schedule.note(id, 0, b"x")

    assert sorted(each.id for each in await at.after(1)) == sorted(ids)
    assert await at.after(WEEK) == []


async def test_a_node_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of which nobody can say whether they are over wait. The others are told."""
    at = Expiring()
    away, there = [(await at.begin(ALICE))[:20] for _ in range(2)]
    left = schedule_of(at.store).left

    async def some(id: str) -> int | None:
        if id == away:
            raise StoreUnavailableError("its node is away, says the test")
        return await left(id)

    with monkeypatch.context() as patch:
        patch.setattr(schedule_of(at.store), "left", some)
        with pytest.raises(StoreUnavailableError):
            await at.after(WEEK)

    assert [each.id for each in at.told] == [there]
    assert [each.id for each in await at.sweep()] == [away]


async def test_another_process_leads() -> None:
    """Nothing is told once the check raises."""
    at = Expiring()
    await at.begin(ALICE)
    await settle(at.manager)
    at.clock.advance(WEEK)
    expiry = backend_of(at.manager).expiry
    assert expiry is not None

    def check() -> None:
        raise RuntimeError("another one leads")

    with pytest.raises(RuntimeError, match="another one leads"):
        await sweep(expiry, check)
    assert at.told == []


async def test_entries_nobody_takes() -> None:
    """What was noted again since it was due isn't removed."""
    store, id = MemoryStore(clock=(clock := Clock())), new_id()
    schedule = schedule_of(store)
    await schedule.note(id, 1000, b"x")
    clock.advance(1)
    (due,), _ = await schedule.due(shard_of(id), 10)
    await schedule.note(id, 0, b"y")
    await schedule.remove(shard_of(id), [Due(id, due.at - 1, b"x")])

    assert [each.about for each in (await schedule.due(shard_of(id), 10))[0]] == [b"y"]


async def test_a_callable_that_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """What it waited for was cancelled: that is an error like any other."""
    told = list[str]()

    async def on_expired(expired: Expired) -> None:
        told.append(expired.id)
        raise asyncio.CancelledError

    at = Expiring(on_expired=on_expired)
    ids = [(await at.begin(ALICE))[:20] for _ in range(3)]
    await at.after(WEEK)

    assert sorted(told) == sorted(ids)
    assert caplog.text.count("is called again in 5 seconds") == 3


class Told:
    """An application that says when it is told."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.told = asyncio.Event()

    async def __call__(self, expired: Expired) -> None:
        self.ids.append(expired.id)
        self.told.set()


async def expired(told: OnExpired) -> tuple[SessionManager, str]:
    """A manager, and the id of a session that has run out."""
    at = Expiring(on_expired=told)
    token = await at.begin(ALICE)
    await settle(at.manager)
    at.clock.advance(WEEK)
    return at.manager, token[:20]


async def test_expiring_in_a_worker() -> None:
    """`expiring()` tells while its body runs, and nobody afterwards."""
    told = Told()
    manager, id = await expired(told)
    before = asyncio.all_tasks()
    async with manager.expiring():
        await told.told.wait()

    assert told.ids == [id]
    assert asyncio.all_tasks() == before


async def test_only_the_leader_tells() -> None:
    """Of several that run it one does so; when it ends, another one goes on."""
    told = Told()
    manager, id = await expired(told)
    async with manager.leader(LEADER), manager.expiring():
        for _ in range(20):
            await asyncio.sleep(0)
        assert told.ids == []
    async with manager.expiring():
        await told.told.wait()

    assert told.ids == [id]


async def test_a_leader_of_the_application_has_its_name() -> None:
    """An application's job that is called `expiry` holds nothing up."""
    told = Told()
    manager, id = await expired(told)
    async with asyncio.timeout(PATIENCE), manager.leader("expiry"), manager.expiring():
        await told.told.wait()

    assert told.ids == [id]


async def test_a_call_that_cancels_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep goes on, and it is called again."""
    told = Told()

    async def on_expired(expired: Expired) -> None:
        if not told.ids:
            told.ids.append(expired.id)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        await told(expired)

    manager, id = await expired(on_expired)
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.EVERY", 0)
    monkeypatch.setattr("redis_sessions.lifecycle.sweep._RETRY", 0)
    async with asyncio.timeout(PATIENCE), manager.expiring():
        await told.told.wait()

    assert told.ids == [id, id]


async def test_a_store_that_comes_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The sweep goes on after an error, which is logged once."""
    told = Told()
    manager, id = await expired(told)
    schedule = schedule_of(manager.store)
    due, calls = schedule.due, list[str]()

    async def fail_first(shard: str, count: int) -> tuple[list[Due], bool]:
        calls.append(shard)
        if len(calls) <= 32:
            raise StoreUnavailableError("away, says the test")
        return await due(shard, count)

    monkeypatch.setattr(schedule, "due", fail_first)
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.EVERY", 0)
    async with manager.expiring():
        await told.told.wait()

    assert told.ids == [id]
    assert caplog.text.count("on_expired waits for the store") == 1


async def test_the_lifespan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The middleware tells from the start to the shutdown; of the same one twice, one does."""
    told, ran = Told(), list[Expiry]()

    def counted(expiry: Expiry) -> AbstractAsyncContextManager[None]:
        ran.append(expiry)
        return running(expiry)

    monkeypatch.setattr("redis_sessions.http.lifespan.running_sweep", counted)
    manager, id = await expired(told)
    sent = list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def receive() -> Message:
        if not sent:
            return {"type": "lifespan.startup"}
        await told.told.wait()
        return {"type": "lifespan.shutdown"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    before = asyncio.all_tasks()
    twice = SessionMiddleware(SessionMiddleware(app, manager=manager), manager=manager)
    await twice({"type": "lifespan", "state": {}}, receive, send)

    assert told.ids == [id]
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asyncio.all_tasks() == before
    assert len(ran) == 1


async def test_rights_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start fails with an error that names the option."""
    manager, _ = await expired(Told())

    async def refuse(*_: object) -> None:
        raise StoreUnavailableError("the user may not ZADD", reason="refused")

    monkeypatch.setattr(schedule_of(manager.store), "note", refuse)
    with pytest.raises(ConfigurationError, match="on_expired=: the user may not ZADD; it needs"):
        await manager.connect()


def test_expiring_without_the_option() -> None:
    """The error says what is missing."""
    manager = SessionManager(MemoryStore(), KEY)
    with pytest.raises(ConfigurationError, match="needs SessionManager"):
        manager.expiring()
