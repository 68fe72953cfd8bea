"""Records that other libraries keep in Redis: found by the id in a cookie, and never changed."""

from __future__ import annotations

import asyncio
import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, Protocol, cast

from redis.asyncio import Redis, RedisCluster

from redis_sessions.errors import ConfigurationError, StoreError
from redis_sessions.http.mapping import MapOption, mapped_by
from redis_sessions.http.sources import Found
from redis_sessions.stores.commands import IndexCommand
from redis_sessions.stores.redis import RedisStore, servers_of
from redis_sessions.tracebacks import no_fields, silent_repr, stripped

__all__ = ["Decryptor", "RedisSdk", "Starsessions"]

_STARSESSIONS: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SDK: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)
_LARGEST: Final = 1_000_000
"""How many bytes a record may have that is decoded."""


class Decryptor(Protocol):
    """The part of fastapi-redis-sdk's `Encryptor` that reads."""

    def decrypt(self, ciphertext: bytes) -> bytes: ...


class Starsessions:
    """The records of starsessions' `RedisStore`.

        accept=[Starsessions("redis://localhost:6379/0")]

    - `url`: a URL of `SessionMiddleware(store=…)`, or a redis-py asyncio client
    - `prefix`: the one of starsessions' `RedisStore`
    - `cookie_name`, `path`, `domain`: of its `SessionMiddleware`
    - `loads`: turns a record into a dict, where its `serializer=` wasn't JSON. It gets what is in
      Redis, so it must not build objects as pickle does
    - `map`: what becomes ours: `{"user_id": "user.id"}`, or a callable. By default all of it
    - `once`: whether the cookie expires when its session was accepted
    - `follow`: whether its end ends our session, and ours ends it. This needs `once=False`

    Raises `ConfigurationError`.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    @stripped
    def __init__(
        self,
        url: str | Redis | RedisCluster,
        *,
        prefix: str = "starsessions.",
        cookie_name: str = "session",
        path: str = "/",
        domain: str | None = None,
        loads: Callable[[bytes], Any] = json.loads,
        map: MapOption | None = None,  # noqa: A002 - as the other sources have it
        once: bool = True,
        follow: bool = False,
    ) -> None:
        self._store = RedisStore(url, prefix=prefix)
        self.cookie, self.path, self.domain = cookie_name, path, domain
        self.once, self.follow = once, follow
        self._loads = loads
        self._map = mapped_by(map)

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        return self._map(data)

    async def find(self, value: str) -> Found | str | None:
        """The session with this id. It takes no id that starsessions doesn't make itself."""
        if _STARSESSIONS.fullmatch(value) is None:
            return "malformed"
        stored = await self._store.load(value)
        if stored is None:
            return None
        data = _decoded(stored, self._loads)
        if data is None:
            return "undecodable"
        metadata = data.pop("__metadata__", None)
        return Found(data, value, None, _created(metadata))  # `rolling` may prolong its life

    async def read(self, id: str) -> dict[str, Any] | None:
        return _data(await self.find(id))

    async def end(self, id: str) -> None:
        await _delete(self._store, id)

    async def close(self) -> None:
        await self._store.close()


class RedisSdk:
    """The records of fastapi-redis-sdk's sessions.

        accept=[RedisSdk("redis://localhost:6379/0")]

    - `url`: a URL of `SessionMiddleware(store=…)`, or a redis-py asyncio client
    - `prefix`: its `REDIS_PREFIX`
    - `cookie_name`, `path`, `domain`: of its cookie
    - `encryptor`: the one that its store had, if any
    - `map`: what becomes ours: `{"user_id": "user.id"}`, or a callable. By default all of it
    - `once`: whether the cookie expires when its session was accepted
    - `follow`: whether its end ends our session, and ours ends it. This needs `once=False`. Only
      requests to its own application renew its idle time

    Raises `ConfigurationError`.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    @stripped
    def __init__(
        self,
        url: str | Redis | RedisCluster,
        *,
        prefix: str = "redis:fastapi",
        cookie_name: str = "session",
        path: str = "/",
        domain: str | None = None,
        encryptor: Decryptor | None = None,
        map: MapOption | None = None,  # noqa: A002 - as the other sources have it
        once: bool = True,
        follow: bool = False,
    ) -> None:
        if encryptor is not None and not hasattr(encryptor, "decrypt"):
            raise ConfigurationError(
                "encryptor= of RedisSdk has no decrypt(): give it the one that its store had"
            )
        self._store = RedisStore(url, prefix=f"{prefix}:session:")
        self.cookie, self.path, self.domain = cookie_name, path, domain
        self.once, self.follow = once, follow
        self._encryptor = encryptor
        self._map = mapped_by(map)

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        return self._map(data)

    async def find(self, value: str) -> Found | str | None:
        """The session with this id, unless one of its two times is over."""
        if _SDK.fullmatch(value) is None:
            return "malformed"
        stored, left = await self._read(value)
        if stored is None:
            return None
        envelope = _decoded(stored, self._loads)
        data: Any = None if envelope is None else envelope.get("d")
        if envelope is None or not isinstance(data, dict):
            return "undecodable"
        data = cast("dict[str, Any]", data)
        return Found(data, value, left, _created(envelope.get("m")))

    def _loads(self, stored: bytes) -> Any:
        if self._encryptor is not None:
            stored = self._encryptor.decrypt(b64decode(stored, validate=True))
        return json.loads(stored)

    async def _read(self, id: str) -> tuple[bytes | None, int]:
        """What is stored, and for how many seconds it can live at most.

        The field has a TTL of its own. A key without a TTL is what a late write has left of a
        session that ended.
        """
        stored, left = await asyncio.gather(
            _ask(self._store, id, "HGET", "d"), _ask(self._store, id, "PTTL")
        )
        alive = isinstance(stored, bytes) and isinstance(left, int) and left > 0
        return (stored, left // 1000) if alive else (None, 0)

    async def read(self, id: str) -> dict[str, Any] | None:
        return _data(await self.find(id))

    async def end(self, id: str) -> None:
        await _delete(self._store, id)

    async def close(self) -> None:
        await self._store.close()


async def _ask(store: RedisStore, id: str, name: str, *arguments: Any) -> Any:
    """The reply to a command about one key. None if the key is of another type."""
    key = store.prefix + id
    try:
        return await servers_of(store).index_commands.submit(
            IndexCommand(key, (name, key, *arguments)), 512
        )
    except StoreError as exc:
        if "WRONGTYPE" in str(exc):
            return None
        raise


async def _delete(store: RedisStore, id: str) -> None:
    key = store.prefix + id
    await servers_of(store).index_commands.submit(IndexCommand(key, ("DEL", key)), 512)


def _decoded(stored: bytes, loads: Callable[[bytes], Any]) -> dict[str, Any] | None:
    """What a record holds. None: it is no dict, or damaged."""
    if len(stored) > _LARGEST:
        return None
    try:
        data: Any = loads(stored)
    except (Base64Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", data) if isinstance(data, dict) else None


def _data(found: Found | str | None) -> dict[str, Any] | None:
    return found.data if isinstance(found, Found) else None


def _created(metadata: Any) -> float | None:
    """When the session began, in seconds since the epoch, by its own metadata."""
    created: Any = cast("Any", metadata).get("created") if isinstance(metadata, dict) else None
    if isinstance(created, bool) or not isinstance(created, (int, float)):
        return None
    return float(created) if isfinite(created) and 0 <= created < 2**40 else None
