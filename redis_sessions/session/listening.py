"""What a listener gets: messages, and the note that some are missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from redis_sessions.tracebacks import strip, stripped

__all__ = ["Listening", "Message", "Missed"]

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Missed:
    """Some messages are missing here: load anew what they would have told.

    `count` is how many there are, if this process dropped them, since the listener was too slow.
    It is None if the connection to Redis was lost: then nobody knows, and it may be none.
    """

    count: int | None = None


class Listening:
    """Messages, in two ways:

        async for message in session.messages(): ...

        async with session.messages() as messages:  # from here on nothing that is sent is lost
            await websocket.send_json(await load_all())
            async for message in messages: ...

    A message is a dict, or a `Missed` where some may be missing. Both ways begin with a
    `StoreUnavailableError` if Redis is away.
    """

    __slots__ = ("_begin", "_begun")

    def __init__(
        self, begin: Callable[[], AbstractAsyncContextManager[AsyncGenerator[Message | Missed]]]
    ) -> None:
        self._begin = begin
        # By which task, since several may share this object.
        self._begun: dict[object, list[AbstractAsyncContextManager[object]]] = {}

    @stripped
    async def __aenter__(self) -> AsyncGenerator[Message | Missed]:
        opening = self._begin()
        messages = await opening.__aenter__()
        self._begun.setdefault(asyncio.current_task(), []).append(opening)
        return messages

    async def __aexit__(self, *exc: object) -> None:
        how: Any = exc
        task = asyncio.current_task()
        by = task if task in self._begun else next(reversed(self._begun))
        *others, opening = self._begun.pop(by)
        if others:
            self._begun[by] = others
        await opening.__aexit__(*how)

    async def __aiter__(self) -> AsyncGenerator[Message | Missed]:
        try:
            async with self._begin() as messages:
                async for message in messages:
                    yield message
        except BaseException as exc:
            strip(exc)
            raise
