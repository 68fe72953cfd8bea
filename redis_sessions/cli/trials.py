"""What `redis-sessions check` tries out besides the store itself."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from redis_sessions.errors import StoreError
from redis_sessions.stores.redis import RedisStore

__all__ = ["send_to_itself"]


async def send_to_itself(store: RedisStore) -> str | None:
    """Publish in a channel of messages, and listen there; why nothing arrived."""
    channels, name = store.channels(), f"{store.prefix}msg:{token_hex(16)}"
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
    except StoreError as exc:
        return str(exc)
    return None
