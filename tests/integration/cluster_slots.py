"""Slots of a Cluster, and records whose ids are in them."""

from __future__ import annotations

import asyncio
from secrets import token_bytes
from typing import Any

from redis.crc import key_slot

from redis_sessions import (
    RedisStore,
)
from redis_sessions.session.token import SessionToken
from redis_sessions.testing import topology

MINUTE = 60_000


def id_in(slots: range, prefix: str) -> str:
    """An id whose record is in one of these slots."""
    while True:
        id = SessionToken.generate().id
        if key_slot(f"{prefix}{id}".encode()) in slots:
            return id


def record() -> bytes:
    return token_bytes(80)


async def loaded(store: RedisStore, *ids: str) -> list[bytes | None]:
    """What is stored under each of these ids; asked for at once."""
    return list(await asyncio.gather(*map(store.load, ids)))


def slots_of(running: topology.ClusterTopology, node: topology.Node) -> range:
    """A range of slots that a node has."""
    ranges: list[Any] = node.ask("CLUSTER", "SLOTS")
    first, last, *_ = next(each for each in ranges if each[2][1] == node.port)
    return range(first, last + 1)
