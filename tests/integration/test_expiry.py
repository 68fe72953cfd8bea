"""`on_expired=` beside everything else that uses the same Redis."""

from __future__ import annotations

import asyncio

import pytest

from redis_sessions import Expired
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.lifecycle.sweep import sweep
from redis_sessions.stores.schedule import SHARDS, schedule_of
from redis_sessions.testing import store_session
from tests.integration.operating import Site
from tests.support.apps import manager_on
from tests.support.servers import as_owner
from tests.unit.setting import ALICE


async def test_the_command_line(redis_url: str, prefix: str) -> None:
    """What it ends isn't told as expired, and it takes no part of the schedule for a session."""
    told = list[Expired]()
    url = as_owner(redis_url)
    site = Site(manager_on(url, prefix, on_expired=told.append), url)
    expiry, schedule = backend_of(site.manager).expiry, schedule_of(site.manager.store)
    assert expiry is not None
    ids = [(await store_session(site.manager, ALICE))[:20] for _ in range(3)]
    await expiry.wait_written()
    counted = await site.run("count")
    assert counted.stdout.split()[0] == "3"
    assert await site.manager.count() == 3

    one = await site.run("revoke", "alice", "--id", ids[0])
    assert (one.exit_code, one.stderr) == (0, "")
    rest = await site.run("revoke", "alice", "--all", "--yes")
    assert (rest.exit_code, rest.stderr) == (0, "")
    for id in ids:
        await schedule.note(id, 0, b"late")
    await sweep(expiry)
    assert told == []
    await site.manager.close()


async def test_the_command_line_without_a_schedule(redis_url: str, prefix: str) -> None:
    """Where no application keeps one it writes none."""
    url = as_owner(redis_url)
    site = Site(manager_on(url, prefix), url)
    id = (await store_session(site.manager, ALICE))[:20]
    assert (await site.run("revoke", "alice", "--id", id)).exit_code == 0
    await (schedule := schedule_of(site.manager.store)).note(id, 0, b"x")
    due = [await schedule.due(shard, 9) for shard in SHARDS]
    assert [each.id for found, _ in due for each in found] == [id]
    await site.manager.close()


async def test_several_processes(
    redis_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them tells; when it stops, another one goes on with what is new."""
    monkeypatch.setattr("redis_sessions.lifecycle.sweep.EVERY", 0.05)
    told, done = list[tuple[int, str]](), asyncio.Event()

    def teller(number: int) -> object:
        def tell(expired: Expired) -> None:
            told.append((number, expired.id))
            done.set()

        return tell

    managers = [manager_on(redis_url, prefix, on_expired=teller(n)) for n in range(3)]
    schedule = schedule_of(managers[0].store)
    running = [manager.expiring() for manager in managers]
    for each in running:
        await each.__aenter__()
    ids = list[str]()
    for _ in range(2):
        done.clear()
        ids.append((await store_session(managers[0], ALICE))[:20])
        await backend_of(managers[0]).store.end(ids[-1], b"\1" * 33, 1)
        await schedule.note(ids[-1], 0, b"x")
        await done.wait()
        await running[told[-1][0]].__aexit__(None, None, None)

    assert [id for _, id in told] == ids
    assert told[0][0] != told[1][0]
    for number, each in enumerate(running):
        if number not in {number for number, _ in told}:
            await each.__aexit__(None, None, None)
    for manager in managers:
        await manager.close()
