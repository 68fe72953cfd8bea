"""A port where something else listens, or a server that lies: a StoreError, whatever is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from redis_sessions import (
    ConfigurationError,
    RedisStore,
    SessionConflictError,
    StoreError,
    StoreUnavailableError,
)
from redis_sessions.session.record import tombstone
from tests.integration.wrong_servers import PROTOCOLS, TYPES, after_greeting, always, listening
from tests.support.apps import client_of, doing, manager_on

ID = "A" * 20
URLS = [
    "redis://127.0.0.1:{}/0",
    "redis://user:sesame@127.0.0.1:{}/1",
    "redis://127.0.0.1:{0},127.0.0.1:{0}/0?replicas=read",
    "redis+sentinel://127.0.0.1:{}/mymaster/0",
    "redis+cluster://127.0.0.1:{}?replicas=read",
]


def questions(store: RedisStore) -> list[Callable[[], Awaitable[Any]]]:
    """Everything that a store can be asked."""

    async def lock() -> None:
        with suppress(SessionConflictError):  # 0: somebody else has it
            async with store.lock(ID, wait=0, hold=1):
                pass

    async def together() -> None:
        loads = [store.load(f"{number:020d}") for number in range(3)]
        for found in await asyncio.gather(*loads, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found

    async def near() -> None:
        copy = store.load_from_replica(ID)
        if copy is not None:
            await copy

    return [
        lambda: store.load(ID),
        together,
        near,
        lambda: store.commit(ID, None, bytes(64), 60_000),
        lambda: store.commit(ID, bytes(33), tombstone(0), 60_000),
        lambda: store.end(ID, tombstone(0), 60_000),
        lambda: store.enter("key", ID, age=0, own=-1, ttl=60_000, descriptor=b""),
        lambda: store.ask("key", ID, authenticated=1),
        lambda: store.touch("key", ID, authenticated=1, ttl=60_000, descriptor=b""),
        lambda: store.mark("key", ID, ttl=60_000),
        lambda: store.revoke("key", keep=None, memory=60_000),
        lambda: store.entries("key"),
        lock,
    ]


async def asked(url: str, **options: Any) -> list[StoreError]:
    """What all of them raise that is a StoreError; what else they raise is the test's failure."""
    told: list[StoreError] = []
    store = RedisStore(url, timeout=0.2, **options)
    with suppress(StoreUnavailableError, ConfigurationError):
        await store.connect()
    for question in questions(store):
        try:
            await question()
        except StoreError as exc:
            told.append(exc)
    await store.close()
    return told


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_another_protocol(url: str, protocol: str) -> None:
    """It is said that this isn't Redis' protocol, or that it doesn't serve; the session is safe."""
    async with listening(always(PROTOCOLS[protocol])) as port:
        told = await asked(url.format(port))
        assert len(told) >= 11  # each but for a replica's copy
        assert all(isinstance(each, StoreUnavailableError) for each in told)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_is_said_of_it(protocol: str) -> None:
    """The error names the address and says what to look for; requests get 503."""
    async with listening(always(PROTOCOLS[protocol])) as port:
        manager = manager_on(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailableError) as told:
            await manager.load("x" * 64)
        assert f"127.0.0.1:{port}/0 doesn't speak Redis's protocol" in str(told.value)
        async with client_of(doing(manager=manager), "x" * 64) as browser:
            assert (await browser.get("/do")).status_code == 503
        await manager.close()


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("greets", [False, True])
@pytest.mark.parametrize("reply", TYPES)
async def test_replies_of_another_type(url: str, greets: bool, reply: str) -> None:
    """Whatever the reply is, it is taken for what was asked, or it is a StoreError."""
    answer = (after_greeting if greets else always)(TYPES[reply])
    async with listening(answer) as port:
        options = {"wait_replicas": 1, "wait_timeout": 0.1, "wait_for": "all"}
        await asked(url.format(port))
        await asked(url.format(port), **options)


@pytest.mark.parametrize("reply", sorted(TYPES.keys() - {"error"}))
async def test_a_record_is_bytes_or_nothing(reply: str) -> None:
    """Nothing else is ever taken for one."""
    answer = after_greeting(TYPES[reply])
    async with listening(answer) as port:
        store = RedisStore(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailableError, match="doesn't speak Redis's protocol"):
            await store.load(ID)
        await store.close()


async def test_a_server_that_comes_to_its_senses() -> None:
    """What is connected to what lied is left: the next request is served."""
    replies = {b"MGET": TYPES["int"]}
    async with listening(lambda name: replies.get(name, b"+OK\r\n")) as port:
        store = RedisStore(f"redis://127.0.0.1:{port}/0")
        with pytest.raises(StoreUnavailableError):
            await store.load(ID)
        replies[b"MGET"] = b"*1\r\n$4\r\nsafe\r\n"
        assert await store.load(ID) == b"safe"
        await store.close()


@pytest.mark.parametrize(
    "reply", ["MOVED 1 127.0.0.1:1", "ASK 1 127.0.0.1:1", "CLUSTERDOWN", "TRYAGAIN"]
)
async def test_a_map_that_is_refused_as_a_key_is(reply: str) -> None:
    """No node of a Cluster answers so where there is no key."""
    replies = {b"CLUSTER": f"-{reply}\r\n".encode()}
    async with listening(lambda name: replies.get(name, b"+OK\r\n")) as port:
        store = RedisStore(f"redis+cluster://127.0.0.1:{port}", timeout=0.2)
        with pytest.raises(StoreUnavailableError, match="doesn't speak Redis's protocol"):
            await store.load(ID)
        await store.close()
