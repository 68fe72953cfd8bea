"""The ids of secret keys that processes have noted in Redis."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from redis_sessions.stores.index_replies import fields

__all__ = ["key_ids"]

_KEY_ID: Final = re.compile(rb"[0-9a-f]{8}\Z")
_SECONDS: Final = re.compile(rb"\d{1,12}\Z")
_MOST_KEYS: Final = 32
"""The most secret keys that are noted."""
_DAY: Final = 24 * 3600


async def key_ids(
    send: Callable[..., Awaitable[Any]], name: str, now: float, note: str | None
) -> Mapping[str, float]:
    """What `KeyNoting.key_ids` gives, from the hash `name`. `send(name, command, …)` asks Redis."""
    if note is not None:
        await send(name, "HSET", note, int(now))
        await send(name, "PEXPIRE", _DAY * 1000)
    noted = fields(await send(name, "HSCAN", 0, "COUNT", 2 * _MOST_KEYS))
    ages = {
        id.decode(): max(0.0, now - int(at))
        for id, at in noted.items()
        if _KEY_ID.match(id) and _SECONDS.match(at)
    }
    newest = sorted(ages, key=ages.__getitem__)[:_MOST_KEYS]
    kept = {id: ages[id] for id in newest if ages[id] <= _DAY}
    if note is not None and len(kept) < len(ages):
        await send(name, "HDEL", *(ages.keys() - kept.keys()))
    return kept
