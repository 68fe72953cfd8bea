"""What `redis-sessions check` tries out: sessions, and parts that an application may do without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from redis_sessions.errors import SessionConflictError, StoreError
from redis_sessions.session.record import tombstone
from redis_sessions.stores.commands import LOCK, IndexCommand
from redis_sessions.stores.leases import try_out
from redis_sessions.stores.pubsub import UNKNOWN
from redis_sessions.stores.redis import RedisStore, is_cluster, servers_of
from redis_sessions.stores.schedule import schedule_of, try_schedule

__all__ = ["PARTS", "try_parts", "try_sessions"]


async def try_sessions(store: RedisStore, ids: Sequence[str], milliseconds: int) -> str | None:
    """What is done to a record, an index and a lock, under each of these; why it failed.

    `ids` has one for each primary. What is written is gone after so many milliseconds.
    """
    for id in ids:
        try:
            await _try(store, id, milliseconds)
        except SessionConflictError:
            return "a lock isn't released: the user lacks DEL"
        except StoreError as exc:
            return str(exc)
    return None


async def _try(store: RedisStore, id: str, milliseconds: int) -> None:
    await store.commit(id, None, tombstone(0), milliseconds)
    await store.load(id)
    await store.enter(id, id, age=0, own=-1, ttl=milliseconds, descriptor=b"")
    await store.entries(id)
    await store.mark(id, id, ttl=milliseconds)
    await store.end(id, tombstone(0), milliseconds)
    for _ in range(2):  # so that one finds that the other was released
        async with store.lock(id, wait=0.05, hold=1):
            pass
    # What is asked for only after a restart, and only while a slot moves.
    await _ask(store, id, "SCRIPT", "LOAD", LOCK.text)
    if is_cluster(store):
        await _ask(store, id, "ASKING")


async def _ask(store: RedisStore, name: str, *command: Any) -> None:
    """Send a command to the server that has a key, or a channel, of this name."""
    await servers_of(store).index_commands.submit(IndexCommand(name, command), 128)


async def try_parts(
    store: RedisStore, ids: Sequence[str], uses: Sequence[str], milliseconds: int
) -> dict[str, str | None]:
    """Why these parts, or all but `_IF_USED`, don't work; None if they do. As `try_sessions`."""
    found = dict[str, str | None]()
    for name in [part for part in PARTS if part in uses or not (uses or part in _IF_USED)]:
        try:
            found[name] = await _TRIALS[name](store, ids, milliseconds)
        except StoreError as exc:
            found[name] = str(exc)
    await _remove_rest(store, ids)
    return found


async def _remove_rest(store: RedisStore, ids: Sequence[str]) -> None:
    """What has no end if a right was missing in the middle: of the parts, and of the dry run."""
    kinds = ("", "of:", "lock:", "leader:")
    keys = [f"{store.prefix}{kind}{id}" for id in ids for kind in kinds]
    await asyncio.gather(*(_ask(store, key, "DEL", key) for key in keys), return_exceptions=True)


async def _lead(store: RedisStore, ids: Sequence[str], milliseconds: int) -> None:
    for id in ids:
        await try_out(store, id, milliseconds)


async def _note_ends(store: RedisStore, ids: Sequence[str], _: int) -> None:
    await try_schedule(schedule_of(store), ids[0])  # in all shards, wherever they are


async def _send(store: RedisStore, ids: Sequence[str], _: int) -> str | None:
    for id in ids:
        if (why := await _send_to_itself(store, f"{store.prefix}msg:{id}")) is not None:
            return why
    return None


async def _send_to_itself(store: RedisStore, name: str) -> str | None:
    """Publish in a channel of messages, and listen there; why nothing arrived."""
    channels = store.channels()
    heard = asyncio.Event()

    def told(_: str, __: bytes | None) -> None:
        heard.set()

    try:
        stop = await channels.subscribe([name], told)
        try:
            async with asyncio.timeout(store.timeout):
                await channels.publish(name, b"check")
                await heard.wait()
        finally:
            stop()
    except TimeoutError:
        return "a message that was sent didn't arrive"
    await _end_listening(store, name)
    return None


async def _end_listening(store: RedisStore, name: str) -> None:
    """Once more, and aloud: a listener that leaves doesn't hear that the server refused it."""
    try:
        await _ask(store, name, "SUNSUBSCRIBE" if is_cluster(store) else "UNSUBSCRIBE", name)
    except StoreError as exc:
        if UNKNOWN not in str(exc):
            raise
        await _ask(store, name, "UNSUBSCRIBE", name)


async def _track(store: RedisStore, ids: Sequence[str], _: int) -> None:
    for id in ids:
        await _ask(
            store, id, "CLIENT", "TRACKING", "OFF"
        )  # which needs the right, and does nothing
        await _ask(store, id, "ROLE")


async def _wait(store: RedisStore, ids: Sequence[str], _: int) -> None:
    for id in ids:
        await _ask(store, id, "WAIT", 0, 1)


_Trial = Callable[[RedisStore, Sequence[str], int], Awaitable[str | None]]
_TRIALS: Final[dict[str, _Trial]] = {
    "leader": _lead,
    "on_expired": _note_ends,
    "messages": _send,
    "notices": _track,
    "wait_replicas": _wait,
}
_IF_USED: Final = {"wait_replicas"}
"""What only `redis-sessions acl --replicas` gives the right for: it is tried if it is used."""
PARTS: Final = tuple(_TRIALS)
"""What is tried, by the names that `--uses` takes."""
