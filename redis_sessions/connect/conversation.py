"""One connection for questions that build on each other, as those with a cursor."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self

from redis import exceptions as errors
from redis.asyncio import ConnectionPool

from redis_sessions.connect.connector import Connector
from redis_sessions.connect.failures import as_redis_error, late, translate
from redis_sessions.connect.resp import Command, pack, read_reply
from redis_sessions.errors import SessionError, StoreError

__all__ = ["Conversation"]


class Conversation:
    """A connection of its own to one server: `async with Conversation(connector, 2.0) as asked:`.

    It is never opened again. What a cursor means, only the process knows that gave it, and after a
    restart or a failover the same address leads to another one. `timeout`: seconds for each `ask`.
    """

    _pool: ConnectionPool | None = None
    _connection: Any = None

    def __init__(self, connector: Connector, timeout: float) -> None:
        self._connector = connector
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        try:
            self._pool = pool = await self._connector.open()  # an embedded server takes its time
            self._connection = pool.make_connection()
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()
        except BaseException as exc:
            await self._close(cut=True)
            if isinstance(exc, SessionError) or not isinstance(exc, Exception):
                raise
            raise self._error(exc) from exc
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A server that hangs, or is gone, says no goodbye.
        await self._close(cut=kind is not None and issubclass(kind, StoreError))

    @property
    def where(self) -> str:
        """The server, without credentials."""
        return self._connector.where

    async def ask(self, *commands: Command) -> list[Any]:
        """The reply to each command, or the redis-py error that is its own; `StoreError`."""
        connection = self._connection
        try:
            async with asyncio.timeout(self._timeout):
                await connection.send_packed_command(pack(commands))
                return [await read_reply(connection) for _ in commands]
        except Exception as exc:
            raise self._error(exc) from exc

    def translate(self, exc: Exception) -> StoreError:
        """The error of a store for the error of one command."""
        return translate(self._connector.where, exc)

    def _error(self, exc: Exception) -> StoreError:
        if isinstance(exc, TimeoutError):
            return late(self._connector.where, self._timeout)
        return self.translate(as_redis_error(exc))

    async def _close(self, *, cut: bool) -> None:
        if self._connection is not None:
            with suppress(errors.TimeoutError):
                await self._connection.disconnect(nowait=cut)
        if self._pool is not None:
            await Connector.close(self._pool)
