"""Writes that wait for replicas: which do, and what is told where too few confirm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from redis_sessions import ConfigurationError, RedisStore, Written
from redis_sessions.session.record import HEADER_SIZE, tombstone
from redis_sessions.stores import Commit
from redis_sessions.stores.protocols import EntryStatus
from redis_sessions.testing import topology
from tests.integration.wait_replicas.records import MINUTE, new_id, record
from tests.support.deployments import until
from tests.support.servers import as_app, as_user


@pytest.fixture
async def lenient(running: topology.Topology, prefix: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(
        as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1, on_too_few="warn"
    )
    yield store
    await store.close()


def short_of(written: Written[Any]) -> bool:
    return "replicas confirmed it" in (written.shortfall or "")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == "redis_sessions"]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"wait_replicas": -1}, "write how many, or 0"),
        ({"wait_replicas": True}, "write how many, or 0"),
        ({"wait_timeout": 0}, "write seconds, above 0"),
        ({"wait_timeout": 3}, "up to 2.5"),
        ({"wait_for": "some"}, "write 'lifecycle' or 'all'"),
        ({"on_too_few": "ignore"}, "write 'error' or 'warn'"),
    ],
)
def test_options(options: dict[str, Any], advice: str) -> None:
    """What can't work is refused."""
    with pytest.raises(ConfigurationError) as caught:
        RedisStore("redis://localhost", **options)
    assert advice in str(caught.value)


async def test_all_have_it(strict: RedisStore, running: topology.Topology) -> None:
    """What was answered is on every replica."""
    id, value = new_id(), record()
    assert (await strict.commit(id, None, value, MINUTE)).result is Commit.STORED
    for node in running.replicas:
        with node.connect() as client:
            assert client.get(strict.prefix + id) == value


async def test_which_writes_wait(short: topology.Topology, strict: RedisStore) -> None:
    """Creation, rotation, ends, marks and revocations; not a change, a touch or a question."""
    id, other, key = new_id(), new_id(), "k" * 32
    first, same = record(), record()
    created = await strict.commit(id, None, first, MINUTE)
    assert created.result is Commit.STORED
    assert short_of(created)
    assert await strict.load(id) == first
    assert await strict.commit(id, first[:HEADER_SIZE], same, MINUTE) == Written(Commit.STORED)
    rotated = await strict.commit(id, same[:HEADER_SIZE], record(7), MINUTE)
    assert rotated.result is Commit.STORED
    assert short_of(rotated)
    late = await strict.commit(id, first[:HEADER_SIZE], record(8), MINUTE)
    assert late == Written(Commit.CONFLICT)
    for result in (True, False):  # ended, or ended before: the second attempt writes as well
        ended = await strict.end(id, tombstone(5), MINUTE)
        assert ended.result is result
        assert short_of(ended)
    entered = await strict.enter(key, other, age=0, own=-1, ttl=MINUTE, descriptor=b"")
    assert entered.result.status is EntryStatus.LIVE
    assert short_of(entered)
    touched = await strict.touch(key, other, authenticated=0, ttl=MINUTE, descriptor=b"")
    assert touched.result.status is EntryStatus.LIVE
    assert not short_of(touched)
    assert await strict.authenticated(key, other, at=2**50) == Written(None)
    revoked = await strict.revoke(key, keep=None, memory=MINUTE)
    assert revoked.result > touched.result.clock
    assert short_of(revoked)
    assert await strict.remove(key, [other], until=2**51) == Written(None)
    marked = await strict.mark(key, new_id(), ttl=MINUTE)
    assert marked.result is False
    assert short_of(marked)


async def test_a_primary_that_is_demoted_while_it_waits(server_binary: Path, prefix: str) -> None:
    """Its replicas have confirmed nothing: the write is unsure, and not a bug."""
    with topology.replicas(2, server=server_binary) as running:
        primary, (follower, late) = running.primary, running.replicas
        store = RedisStore(running.url, prefix=prefix, wait_replicas=2, wait_timeout=2.5)
        key, id = "k" * 32, new_id()
        await store.mark(key, new_id(), ttl=MINUTE)
        late.pause()
        write = asyncio.ensure_future(store.mark(key, id, ttl=MINUTE))
        await until(lambda: blocked(primary))
        primary.ask("REPLICAOF", "127.0.0.1", follower.port)
        assert "0 of 2 replicas" in ((await write).shortfall or "")
        await store.close()


async def blocked(node: topology.Node) -> bool:
    return bool(node.ask("INFO", "clients")["blocked_clients"])


async def test_every_write_may_wait(
    short: topology.Topology, running: topology.Topology, prefix: str
) -> None:
    """With wait_for="all" a change and a touch wait, too."""
    store = RedisStore(
        as_app(running.url), prefix=prefix, wait_replicas=2, wait_timeout=0.1, wait_for="all"
    )
    id, first = new_id(), record()
    assert short_of(await store.commit(id, None, first, MINUTE))
    assert short_of(await store.commit(id, first[:HEADER_SIZE], record(), MINUTE))
    assert short_of(await store.touch("k" * 32, id, authenticated=0, ttl=MINUTE, descriptor=b""))
    assert await store.ask("k" * 32, id, authenticated=0) is EntryStatus.LIVE
    await store.close()


async def test_a_warning_instead(
    running: topology.Topology, lenient: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged when it begins and when it ends, not for each write."""
    replica = running.replicas[0]
    replica.pause()
    try:
        for _ in range(3):
            assert await lenient.commit(new_id(), None, record(), MINUTE) == Written(Commit.STORED)
        assert ["1 of 2 replicas confirmed" in text for text in told(caplog)] == [True]
    finally:
        replica.resume()
        running.wait_ready()
    lenient_again = [await lenient.commit(new_id(), None, record(), MINUTE) for _ in range(2)]
    assert lenient_again == [Written(Commit.STORED)] * 2
    assert told(caplog)[1:] == ["sessions: 2 replicas confirm writes again"]


async def test_starting_with_too_few(
    short: topology.Topology, strict: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The application starts, and the log says what is missing."""
    with caplog.at_level(logging.ERROR):
        await strict.connect()
    assert ["the application starts" in text for text in told(caplog)] == [True]


async def test_starting_with_too_few_and_without_a_right(
    short: topology.Topology, prefix: str
) -> None:
    """The right is looked for all the same."""
    short.primary.ask("ACL", "SETUSER", "other", "on", ">sesame", "~*", "+@all", "-hset")
    url = as_user(short.url, "other:sesame")
    store = RedisStore(url, prefix=prefix, wait_replicas=2, wait_timeout=0.1)
    with pytest.raises(ConfigurationError, match="give the user the rights"):
        await store.connect()
    await store.close()
    short.primary.ask("ACL", "DELUSER", "other")


async def test_a_mark_that_is_repeated(running: topology.Topology, strict: RedisStore) -> None:
    """It is confirmed by the replicas that have it, not by whoever wrote nothing."""
    await strict.enter("of-alice", "A" * 20, age=0, own=-1, ttl=MINUTE, descriptor=b"")
    replica = running.replicas[0]
    replica.pause()
    try:
        for _ in range(2):
            assert short_of(await strict.mark("of-alice", "A" * 20, ttl=MINUTE))
    finally:
        replica.resume()
        running.wait_ready()
    assert await strict.mark("of-alice", "A" * 20, ttl=MINUTE) == Written(False)
