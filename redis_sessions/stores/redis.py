"""Records and indexes in Redis. What arrives together leaves together, in few commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from redis.asyncio import Redis, RedisCluster

from redis_sessions.connect.clock import ServerClock
from redis_sessions.connect.connector import connector_of
from redis_sessions.connect.failures import CREDENTIALS
from redis_sessions.connect.loops import PerLoop
from redis_sessions.errors import (
    ConfigurationError,
    StoreError,
    StoreUnavailableError,
    check_bound,
)
from redis_sessions.events import logger
from redis_sessions.session.record import tombstone
from redis_sessions.stores.channel import Channel
from redis_sessions.stores.cluster import Cluster
from redis_sessions.stores.commands import (
    ABSENT,
    END,
    INDEX,
    LEASE,
    LOCK,
    SCHEDULE,
    SWAP,
    IndexCommand,
    Weight,
    Write,
)
from redis_sessions.stores.deadline import longest_write
from redis_sessions.stores.durability import OnTooFew, WaitFor, durability
from redis_sessions.stores.enumeration import Found
from redis_sessions.stores.index_replies import (
    entered,
    entries,
    flag,
    moment,
    nothing,
    status,
    touched,
)
from redis_sessions.stores.inspection import info
from redis_sessions.stores.key_ids import key_ids
from redis_sessions.stores.locks import Locks
from redis_sessions.stores.observing import Observation
from redis_sessions.stores.protocols import (
    Commit,
    Entered,
    Entry,
    EntryStatus,
    NearCopy,
    Rotation,
    Touched,
    Written,
    checked_prefix,
)
from redis_sessions.stores.pubsub import PubSub, RedisPubSub
from redis_sessions.stores.scanning import Place, scan
from redis_sessions.stores.servers import Servers
from redis_sessions.stores.watching import Notify, Watching
from redis_sessions.tracebacks import stripped

__all__ = ["RedisStore", "is_cluster", "lock_by_name", "servers_of", "write_to"]

T = TypeVar("T")


_PAGE: Final = 500
"""The fields of an index that one HSCAN looks at, roughly."""
_MIN_CLIENT_CACHE: Final = 0.05
_MAX_CLIENT_CACHE: Final = 10.0
"""Seconds: as long as the cookie lasts that says that a browser has changed its session."""


class RedisStore:
    """Sealed records and indexes in Redis 6.2 or later, or in Valkey, however it is deployed.

    For example: `RedisStore("redis://localhost:6379/0", wait_replicas=1)`.

    - `url_or_client` is a URL (`redis://`, `rediss://`, `unix://`, `redis+sentinel://`,
      `redis+cluster://`, `embedded://`), or a redis-py asyncio client. The store uses a client's
      settings, and opens connections of its own.
    - `timeout`, in seconds, bounds connecting, each batch of commands, and the wait for a batch. If
      it isn't given, it is the URL's `socket_timeout`, else 2.
    - `wait_replicas` is the number of replicas that must have a sign-in, rotation, sign-out or
      revocation before it is answered; with `wait_for="all"` that holds for every write. If fewer
      have it after `wait_timeout` seconds, that is a `ReplicationError`, or a warning in the log
      with `on_too_few="warn"`.
    - `client_cache`, in seconds, has this process keep copies of sessions that it has read or
      written lately. They are served without asking Redis, which tells when they change; no copy
      is older than this. If it isn't given, it is the URL's `client_cache`, else 0: no copies.
    """

    @stripped
    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        prefix: str = "session:",
        timeout: float | None = None,
        wait_replicas: int = 0,
        wait_timeout: float = 1.0,
        wait_for: WaitFor = "lifecycle",
        on_too_few: OnTooFew = "error",
        client_cache: float | None = None,
    ) -> None:
        self.prefix: str = checked_prefix(prefix)
        self._connector = connector_of(url_or_client, timeout=timeout)
        self.timeout: float = self._connector.timeout
        self._durability = durability(wait_replicas, wait_timeout, wait_for, on_too_few)
        by_url = self._connector.deployment.client_cache
        self.client_cache: float = _client_cache(client_cache, by_url)
        self.server_clock: ServerClock = ServerClock()
        self.observation: Observation = Observation()
        self._servers = PerLoop(self._new_servers)
        self._locks = PerLoop(self._new_locks)
        kind = self._connector.deployment.kind
        self._channels = PerLoop(lambda: RedisPubSub(self._servers.get(), self.timeout, kind))
        self._warned = False

    @property
    def reads_replicas(self) -> bool:
        """Whether `replicas=read` is in the URL, so that `load_from_replica` is of use."""
        return self._connector.deployment.reads_replicas

    @property
    def longest_write(self) -> float:
        """Seconds after which a write that was begun is over, whatever became of it."""
        waits = self._durability
        return longest_write(self.timeout, 0 if waits is None else waits.timeout)

    # -- records

    def load(self, id: str) -> Awaitable[bytes | None]:
        return self._servers.get().loads.submit(self.prefix + id, 64)

    def load_from_replica(self, id: str) -> Awaitable[bytes | None] | None:
        """What a replica has. A write of the last 5 seconds may be missing.

        None if no replica may be read now, and always without `replicas=read` in the URL.
        """
        return self._servers.get().load_from_replica(self.prefix + id)

    def near_copy(self, id: str) -> NearCopy | None:
        return self._servers.get().near_copy(self.prefix + id)

    def watch(self, id: str, notify: Notify) -> Callable[[], None]:
        return self._servers.get().watching.watch(self.prefix + id, notify)

    def commit(
        self, id: str, expected: bytes | None, value: bytes, ttl: int
    ) -> Awaitable[Written[Commit]]:
        write = Write(self.prefix + id, ABSENT if expected is None else expected, value, ttl)
        servers, waits = self._servers.get(), self._durability
        queue = servers.replicated_writes if waits and waits.concerns(write) else servers.writes
        return queue.submit(write, len(value) + 128)

    async def end(self, id: str, tombstone: bytes, ttl: int) -> Written[bool]:
        write = Write(self.prefix + id, END, tombstone, ttl)
        result, shortfall = await self._servers.get().replicated_writes.submit(write, 256)
        return Written(result is Commit.STORED, shortfall)

    def lock(self, id: str, *, wait: float, hold: float) -> AbstractAsyncContextManager[None]:
        return self._locks.get().lock(f"{self.prefix}lock:{id}", wait=wait, hold=hold)

    # -- indexes

    async def enter(
        self, key: str, id: str, *, age: float, own: float, ttl: int, descriptor: bytes
    ) -> Written[Entered]:
        times = f"{age:.3f}", f"{own:.3f}", ttl
        enter = self._call("lifecycle", key, "enter", id, *times, descriptor)
        return await self._write(enter, entered)

    async def ask(self, key: str, id: str, *, authenticated: int, rotated: int = 0) -> EntryStatus:
        ask = self._call("read", key, "ask", id, authenticated, rotated)
        return status(await self._servers.get().index_commands.submit(ask, 512))

    async def touch(
        self,
        key: str,
        id: str,
        *,
        authenticated: int,
        ttl: int,
        descriptor: bytes,
        elsewhere: EntryStatus = EntryStatus.MISSING,
        rotated: int = 0,
    ) -> Written[Touched]:
        arguments = (id, authenticated, ttl, descriptor, elsewhere.value, rotated)
        return await self._write(self._call("touch", key, "touch", *arguments), touched)

    async def authenticated(
        self, key: str, id: str, *, at: int, descriptor: bytes = b"", rotation: Rotation = (0, 0)
    ) -> Written[None]:
        note = self._call("touch", key, "authenticated", id, at, descriptor, *rotation)
        return await self._write(note, nothing)

    async def mark(self, key: str, id: str, *, ttl: int) -> Written[bool]:
        return await self._write(self._call("lifecycle", key, "mark", id, ttl), flag)

    async def revoke(self, key: str, *, keep: str | None, memory: int) -> Written[float]:
        revoke = self._call("lifecycle", key, "revoke", keep or "", memory)
        return await self._write(revoke, moment)

    async def entries(self, key: str, cursor: int = 0) -> tuple[int, Sequence[Entry]]:
        name = self._index_key(key)
        command = IndexCommand(name, ("HSCAN", name, cursor, "COUNT", _PAGE))
        try:
            return entries(await self._servers.get().index_commands.submit(command, 512))
        except StoreError as exc:
            if "WRONGTYPE" not in str(exc):
                raise
            return 0, []  # the next write to the index replaces what has its name

    async def remove(self, key: str, ids: Sequence[str], *, until: float) -> Written[None]:
        remove = self._call("touch", key, "remove", f"{until:.3f}", *ids)
        return await self._write(remove, nothing)

    def _call(self, weight: Weight, key: str, *arguments: Any) -> IndexCommand:
        """A call of the index's script; the first of the arguments names the operation."""
        name = self._index_key(key)
        return IndexCommand(name, INDEX.call([name], arguments), weight)

    async def _write(self, command: IndexCommand, read: Callable[[Any], T]) -> Written[T]:
        """Send a command that writes; `read` makes the result of the script's reply."""
        servers, waits = self._servers.get(), self._durability
        if waits and waits.concerns(command):
            reply, shortfall = await servers.replicated_index_commands.submit(command, 512)
        else:
            reply, shortfall = await servers.index_commands.submit(command, 512), None
        return Written(read(reply), shortfall)

    def _index_key(self, key: str) -> str:
        return f"{self.prefix}of:{key}"

    # -- all that is stored

    def scan(self, place: Place | None = None) -> AsyncGenerator[Sequence[Found], None]:
        return scan(self._servers.get(), self.prefix, self.timeout, place)

    # -- what is published

    def channels(self) -> PubSub:
        """The channels of this store, for the running event loop."""
        return self._channels.get()

    # -- the secret keys in use

    async def key_ids(self, note: str | None = None) -> Mapping[str, float]:
        return await key_ids(self._send, f"{self.prefix}keys", self.server_clock.now(), note)

    def _send(self, key: str, name: str, *arguments: Any) -> Awaitable[Any]:
        command = IndexCommand(key, (name, key, *arguments))
        return self._servers.get().index_commands.submit(command, 512)

    # -- the connection

    async def connect(self) -> None:
        """Write and read once, on every primary; `ConfigurationError` if rights don't suffice."""
        servers = self._servers.get()
        servers.log_trouble(False)  # the errors are raised here
        try:
            troubles, shortfalls = await self._try_out()
        finally:
            servers.log_trouble(True)
        refused = [t for t in troubles if getattr(t, "reason", None) == "refused"]
        if refused:
            reasons = "; ".join(map(str, refused))
            advice = "give the user the rights it needs"
            if any(word in reasons for word in CREDENTIALS):
                advice = "correct the user and password in the URL"
            raise ConfigurationError(f"{reasons}; {advice}") from refused[0]
        if troubles:
            trouble = troubles[0]
            if isinstance(trouble, StoreUnavailableError) and trouble.reason != "protocol":
                raise trouble
            raise ConfigurationError(str(trouble)) from trouble
        for shortfall in shortfalls:
            logger.error("sessions: %s; the application starts all the same", shortfall)
        await self._warn_of_eviction()

    async def _try_out(self) -> tuple[list[StoreError], list[str]]:
        """Write and read once on each primary: the errors, and the shortfalls."""
        try:
            parts = await self._servers.get().tags(self.prefix)
        except StoreError as exc:
            return [exc], []
        found = await asyncio.gather(*(self._try_one(f"connect:{part}") for part in parts))
        troubles = [trouble for trouble in found if isinstance(trouble, StoreError)]
        return troubles, [shortfall for shortfall in found if isinstance(shortfall, str)]

    async def _try_one(self, id: str) -> StoreError | str | None:
        try:
            stored = await self.commit(id, None, tombstone(0), 1000)
            await self.load(id)
            marked = await self.mark(id, id, ttl=1000)
        except StoreError as exc:
            return exc
        return stored.shortfall or marked.shortfall

    async def close(self) -> None:
        """Close the running loop's connections. Who watches there isn't told anything any more."""
        locks, servers, channels = self._locks.pop(), self._servers.pop(), self._channels.pop()
        if channels is not None:
            await channels.close()
        if locks is not None:
            locks.close_when_unused()
        if servers is not None:
            servers.watching.close()
            await servers.close()

    def __repr__(self) -> str:
        return f"<RedisStore {self._connector.where} prefix={self.prefix!r}>"

    def _new_servers(self) -> Servers:
        kind = Cluster if self._connector.deployment.kind == "cluster" else Channel
        watching = Watching(lambda key: servers.loads.submit(key, 64), self.client_cache)
        servers = kind(
            self._connector,
            self.timeout,
            [INDEX, LOCK, LEASE, SCHEDULE, SWAP],
            self.server_clock,
            watching,
            self._durability,
            observation=self.observation,
        )
        return servers

    def _new_locks(self) -> Locks:
        servers = self._servers.get()

        async def set_lock(name: str, value: str, milliseconds: int) -> bool:
            command = IndexCommand(name, LOCK.call([name], (value, milliseconds)))
            return flag(await servers.index_commands.submit(command, 256))

        return Locks(set_lock, servers.close)

    async def _warn_of_eviction(self) -> None:
        try:
            replies = await info(self._servers.get(), "memory")
        except StoreError:
            return  # the user may not ask, which is no reason to complain
        for found in replies:
            policy = found.get("maxmemory_policy", "noeviction")
            evicts = policy != "noeviction" and found.get("maxmemory", "0") != "0"
            if evicts and not self._warned:
                self._warned = True
                logger.warning(
                    "%s may evict sessions when memory is short (maxmemory-policy %s): users "
                    "would be signed out. Set `maxmemory-policy noeviction` on a server that "
                    "holds sessions",
                    self._connector.where,
                    policy,
                )


def servers_of(store: RedisStore) -> Servers:
    """The running loop's servers of a store, for the functions of `stores.inspection`."""
    return store._servers.get()  # pyright: ignore[reportPrivateUsage] - this module's own


def write_to(store: RedisStore, command: IndexCommand) -> Awaitable[Written[Any]]:
    """The reply to a command on one key, which waits for replicas if its weight says so."""
    return store._write(command, lambda reply: reply)  # pyright: ignore[reportPrivateUsage] - as above


def lock_by_name(
    store: RedisStore, name: str, *, wait: float, hold: float
) -> AbstractAsyncContextManager[None]:
    """As `store.lock()`, for a lock that others than this library take, too: its whole name."""
    locks = store._locks.get()  # pyright: ignore[reportPrivateUsage] - as above
    return locks.lock(name, wait=wait, hold=hold)


def is_cluster(store: RedisStore) -> bool:
    """Whether the store's deployment is a Cluster."""
    return store._connector.deployment.kind == "cluster"  # pyright: ignore[reportPrivateUsage] - as above


def _client_cache(given: float | None, of_url: float | None) -> float:
    """The seconds of near copies, checked."""
    seconds = of_url if given is None else given
    if not seconds:
        return 0.0
    check_bound(seconds, "client_cache", _MAX_CLIENT_CACHE)
    if seconds < _MIN_CLIENT_CACHE:
        raise ConfigurationError(
            f"client_cache={seconds:g}: write {_MIN_CLIENT_CACHE:g} or more seconds, or 0; Redis "
            "is asked three times in that time whether it still tells what changes"
        )
    return float(seconds)
