"""What `redis-sessions check` tries out besides sessions. An application may do without it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from redis_sessions.errors import StoreError
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.leases import try_out
from redis_sessions.stores.redis import RedisStore, servers_of
from redis_sessions.stores.schedule import schedule_of, try_schedule

__all__ = ["PARTS", "try_parts"]


async def try_parts(
    store: RedisStore, ids: Sequence[str], uses: Sequence[str], milliseconds: int
) -> dict[str, str | None]:
    """Why these parts, or all, don't work; None if they do.

    `ids` has one for each primary. What is written is gone after so many milliseconds.
    """
    found = dict[str, str | None]()
    for name in [part for part in PARTS if not uses or part in uses]:
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
    commands = [IndexCommand(key, ("DEL", key)) for key in keys]
    submit = servers_of(store).index_commands.submit
    await asyncio.gather(*(submit(command, 128) for command in commands), return_exceptions=True)


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
    return None


_Trial = Callable[[RedisStore, Sequence[str], int], Awaitable[str | None]]
_TRIALS: Final[dict[str, _Trial]] = {
    "leader": _lead,
    "on_expired": _note_ends,
    "messages": _send,
}
PARTS: Final = tuple(_TRIALS)
"""What is tried, by the names that `--uses` takes."""
