"""Several processes that want to lead, over one store in memory, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from redis_sessions import MemoryStore, StoreUnavailableError
from redis_sessions.leader.election import Election
from redis_sessions.stores.leases import Call, Leases, leases_of
from tests.support.virtual_time import VirtualLoop

__all__ = ["LEASE", "Process", "Register", "store_of"]

LEASE = 15


def store_of(loop: VirtualLoop) -> MemoryStore:
    """A store whose clock is the loop's."""
    return MemoryStore(clock=loop.time)


class Process:
    """What one process has: an election of its own, over a network that fails on command."""

    def __init__(self, store: MemoryStore, clock: Callable[[], float]) -> None:
        leases = leases_of(store)
        self._call: Call = leases._call  # pyright: ignore[reportPrivateUsage] - the network is here
        self.election = Election(Leases(self._fail, leases.names), clock)
        self.asked = list[str]()
        """The operations that were carried out."""
        self.away = False
        """Whether no request arrives."""
        self.loses = 0
        """So many replies are lost."""
        self.delay = 0.0
        """Seconds that a request takes to the store, and a reply back."""

    async def _fail(self, name: str, weight: Any, arguments: tuple[Any, ...]) -> Any:
        await asyncio.sleep(self.delay)
        if self.away:
            await asyncio.sleep(2)
            raise StoreUnavailableError("no answer, says the test", reason="timeout")
        reply = await self._call(name, weight, arguments)
        self.asked.append(arguments[0])
        await asyncio.sleep(self.delay)
        if self.loses:
            self.loses -= 1
            raise StoreUnavailableError("the reply was lost, says the test")
        return reply


class Register:
    """What is written to, and compares tokens, as a database's column does."""

    def __init__(self) -> None:
        self.fence = 0
        self.writers = list[int]()

    def write(self, token: int) -> bool:
        if token < self.fence:
            return False
        self.fence = token
        self.writers.append(token)
        return True
