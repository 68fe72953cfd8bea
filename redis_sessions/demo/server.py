"""The demo's own way to its Redis, beside that of the sessions.

It is for what the panels show: plain keys, counts of commands, a server that is stopped. It also
tells the open pages of all processes that somebody's list of devices has changed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from redis_sessions.connect.connector import Connector, deployment_of
from redis_sessions.connect.embedded import ensure_server
from redis_sessions.events import Event

__all__ = ["RedisError", "Server"]

_TIMEOUT: Final = 2.0  # seconds
_Message = dict[str, bytes] | None
_DEVICES: Final = frozenset({"signed_in", "signed_out", "revoked"})

# Commands that no click causes: the demo's own, and what a connection asks by itself.
_OTHERS: Final = ("info", "publish", "subscribe", "role", "time", "hello", "ping", "client|")


class Server:
    """The single server that a URL names. With other stores there is none (`available`)."""

    def __init__(self, url: str, prefix: str) -> None:
        self.embedded: str | None = None
        """The name of the server that this demo has started itself, if it has."""
        self.url = url
        """The store's URL. It starts no server: one that somebody stops here stays away."""
        self._client: Redis | None = None
        self._connector: Connector | None = None
        self._channel = f"{prefix}devices"
        self._pages = dict[str, set[asyncio.Event]]()
        self._tasks = set[asyncio.Task[Any]]()
        if url.startswith("memory:"):
            return
        deployment = deployment_of(url)
        if deployment.kind == "embedded":
            self.embedded = deployment.name
            options = url.partition("?")[2]
            self.url = f"unix://{ensure_server(deployment.name)}" + (options and f"?{options}")
            deployment = deployment_of(self.url)
        if deployment.kind == "server":
            self._connector = Connector(deployment, _TIMEOUT)

    @property
    def available(self) -> bool:
        """Whether there is one server, which can be asked."""
        return self._connector is not None

    async def open(self) -> None:
        """Begin to listen for changes of lists of devices. Nothing fails if the server is away."""
        if self._connector is not None:
            self._client = Redis.from_pool(await self._connector.open())
            self._run(self._listen(self._client))

    async def close(self) -> None:
        """End all that is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    @property
    def client(self) -> Redis:
        """The server, for plain commands."""
        assert self._client is not None, "this store has no server of its own to ask"
        return self._client

    # -- counting and stopping

    async def counts(self) -> Counter[str]:
        """How often each command was called, by whomever, without what no click causes."""
        found: dict[str, Any] = await self.client.info("commandstats")
        names = {key.removeprefix("cmdstat_"): int(of["calls"]) for key, of in found.items()}
        return Counter({k: n for k, n in names.items() if not k.startswith(_OTHERS)})

    async def stop(self) -> None:
        """Stop the embedded server, which keeps its data in its directory."""
        if self.embedded is not None:
            with suppress(RedisError, OSError):  # it answers by closing the connection
                await self.client.execute_command("SHUTDOWN", "SAVE")

    async def start(self) -> None:
        """Start the embedded server, with the data that it had. Nothing happens if it runs."""
        if self.embedded is not None:
            await asyncio.to_thread(ensure_server, self.embedded)

    # -- telling the open pages

    def on_event(self, event: Event) -> None:
        """What the manager calls with each event."""
        if event.name in _DEVICES and event.principal is not None:
            self._run(self._tell(_digest(event.principal)))

    async def changes_of(self, principal: str) -> AsyncIterator[list[str]]:
        """Yields each time when this user's list of devices has changed."""
        changed, who = asyncio.Event(), _digest(principal)
        self._pages.setdefault(who, set()).add(changed)
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield ["devices"]
        finally:
            self._pages[who].discard(changed)
            if not self._pages[who]:
                del self._pages[who]

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, who: str) -> None:
        if self._client is not None:
            with suppress(RedisError, OSError):
                await self._client.publish(self._channel, who)
                return
        self._wake(who)

    def _wake(self, who: str) -> None:
        for page in self._pages.get(who, ()):
            page.set()

    async def _listen(self, client: Redis) -> None:
        while True:
            with suppress(RedisError, OSError):
                async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(self._channel)
                    for who in list(self._pages):  # of what was missed
                        self._wake(who)
                    while True:
                        message = cast("_Message", await pubsub.get_message(timeout=30.0))
                        if message is not None:
                            self._wake(message["data"].decode())
            await asyncio.sleep(0.3)


def _digest(principal: str) -> str:
    """The name is nobody's business who listens in Redis."""
    return blake2b(principal.encode(), digest_size=16, person=b"rs-demo").hexdigest()
