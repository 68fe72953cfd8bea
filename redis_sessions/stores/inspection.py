"""What tools ask a store's servers, and no request does."""

from __future__ import annotations

import asyncio
from typing import Any

from redis_sessions.connect.resp import UNEXPECTED_REPLY
from redis_sessions.errors import StoreError
from redis_sessions.session.record import HEADER_SIZE
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.enumeration import Found
from redis_sessions.stores.servers import Servers

__all__ = ["info", "look", "parsed"]


async def look(servers: Servers, prefix: str, id: str) -> Found | None:
    """What is stored under an id, as a scan tells it; `StoreError`."""
    key = prefix + id

    async def ask(name: str, *arguments: Any) -> Any:
        command = IndexCommand(key, (name, key, *arguments))
        return await servers.index_commands.submit(command, 512)

    header, size, left = await asyncio.gather(
        ask("GETRANGE", 0, HEADER_SIZE - 1), ask("STRLEN"), ask("PTTL")
    )
    try:
        if int(size) == 0 or int(left) == -2:
            return None
        return Found(id, bytes(header), int(size), None if int(left) == -1 else int(left))
    except UNEXPECTED_REPLY as exc:
        raise StoreError("what answers isn't a Redis") from exc


async def info(servers: Servers, section: str) -> list[dict[str, str]]:
    """A section of INFO, for each primary; `StoreError`."""
    return [parsed(reply) for reply in await servers.info(section)]


def parsed(reply: bytes) -> dict[str, str]:
    """The fields of a reply to INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)
