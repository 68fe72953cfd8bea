"""What the slot map of a Cluster answers while it is being fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from redis_sessions import StoreError, StoreUnavailableError
from redis_sessions.connect.connector import Connector, connector_of
from redis_sessions.connect.deployment import Address
from redis_sessions.connect.nodes import NodeHealth
from redis_sessions.connect.slots import SlotMap
from tests.support.virtual_time import VirtualLoop, run

TROUBLE = StoreUnavailableError("a refused: NOPERM", reason="refused")
NEXT_FETCH = 0.2
"""Seconds after which the map may be fetched again."""


class _Node:
    """Answers what the test puts into `replies`, in this order."""

    def __init__(self, connector: Connector, replies: asyncio.Queue[Any]) -> None:
        self.connector = connector
        self.node_health = NodeHealth(connector.where)
        self._replies = replies

    async def ask(self, *_: Any) -> Any:
        reply = await self._replies.get()
        if isinstance(reply, StoreError):
            raise reply
        return reply

    def unexpected_reply(self) -> StoreError:
        return StoreError("what answers isn't a Redis")

    def note_replicas(self, addresses: Sequence[Address]) -> None:
        pass

    def leave(self) -> None:
        pass

    async def close(self) -> None:
        pass


def _new_map(replies: asyncio.Queue[Any], told: asyncio.Event) -> SlotMap[_Node]:
    connector = connector_of("redis+cluster://a:1,b:1", timeout=2)

    def new_node(address: Address) -> _Node:
        return _Node(connector.to(address), replies)

    def note(_: Sequence[_Node]) -> None:
        told.set()

    def ignore(*_: Any) -> None:
        pass

    return SlotMap(connector, 2, new_node, note, ignore, ignore)


def _slots(first: int, last: int) -> list[Any]:
    return [[first, last, [b"a", 1]]]


def test_a_map_that_one_node_has_told_just_after_trouble() -> None:
    """Its other slots are waited for: what was wrong isn't any more."""

    async def test(loop: VirtualLoop) -> None:
        replies, told = asyncio.Queue[Any](), asyncio.Event()
        slots = _new_map(replies, told)
        for _ in range(2):
            replies.put_nowait(TROUBLE)
        with pytest.raises(StoreUnavailableError, match="NOPERM"):
            await slots.find(1, loop.time() + 2)
        await asyncio.sleep(NEXT_FETCH)
        fetching = slots.refresh()
        with pytest.raises(StoreUnavailableError, match="NOPERM"):
            await slots.find(1, loop.time() + 2)  # no node has answered yet
        replies.put_nowait(_slots(0, 0))
        await told.wait()
        assert fetching is not None
        assert not fetching.done()
        replies.put_nowait(_slots(0, 16_383))
        assert (await slots.find(1, loop.time() + 2)).connector.address == ("a", 1)

    run(test)
