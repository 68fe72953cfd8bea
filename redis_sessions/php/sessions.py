"""The sessions that PHP keeps in Redis, by phpredis' handler or by Predis'."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from secrets import token_hex
from typing import Any, Final, cast, get_args
from urllib.parse import unquote

from redis_sessions.errors import ConfigurationError, SessionConflictError, SessionEncodeError
from redis_sessions.http.headers import RawHeader
from redis_sessions.http.mapping import MapOption, mapped_by
from redis_sessions.http.sources import Found
from redis_sessions.http.transports import CookieTransport, SameSite
from redis_sessions.php.compression import Compression, compressor, decompressor
from redis_sessions.php.data import PhpFormatError, PhpObject, mapping_of
from redis_sessions.php.laravel import laravel_cookie
from redis_sessions.php.session_formats import SERIALIZERS, Serializer, decode, encode, replace
from redis_sessions.session.keywords import listed
from redis_sessions.session.state import Duration, seconds
from redis_sessions.stores.commands import SWAP, IndexCommand
from redis_sessions.stores.redis import RedisStore, is_cluster, lock_by_name, servers_of
from redis_sessions.tracebacks import no_fields, silent_repr, stripped

__all__ = ["PhpSessions"]

_ID: Final = re.compile(r"[a-zA-Z0-9,-]{22,256}\Z", re.ASCII)
"""What PHP takes for an id (`session.sid_length`, `session.sid_bits_per_character`)."""
_COMPRESSIONS: Final = get_args(Compression)
_LARGEST: Final = 4 * 1024 * 1024
"""How many bytes a stored session may have that is decoded."""
_PREFIX: Final = "PHPREDIS_SESSION:"
_CLUSTER_PREFIX: Final = "PHPREDIS_CLUSTER_SESSION:"
_GC_MAXLIFETIME: Final = 1440
_WAIT: Final = 2.0
"""Seconds to wait for the lock: as long as phpredis does (100 times 20 ms)."""
_HOLD: Final = 10.0
"""Seconds after which the lock is free in any case. All writes under it are over long before."""


class PhpSessions:
    """The sessions of a PHP application, which phpredis or Predis keeps in Redis.

        accept=[PhpSessions("redis://localhost", map={"user_id": "user.id", "cart": "cart"})]

    - `url_or_client`: where they are, as `RedisStore` has it
    - `prefix`: that of their keys. By default it is phpredis': `PHPREDIS_SESSION:`, or
      `PHPREDIS_CLUSTER_SESSION:` in a Cluster. Predis' is the `prefix` of its client, or `""`
    - `serializer`: as `session.serialize_handler` in php.ini
    - `compression`: as `redis.session.compression` in php.ini
    - `cookie`, `path`, `domain`, `https_only`, `same_site`: as PHP's `session.name` and
      `session.cookie_…`
    - `map`: what becomes ours: `{"user_id": "user.id"}` is `$_SESSION["user"]["id"]`, and `user.0`
      is `$_SESSION["user"][0]`. By default all of it. Values that have objects in them stay
      there; a callable has them as `PhpObject`
    - `follow`: a sign-out on either side is one on both
    - `once`: whether the cookie expires when its session was accepted. This needs `follow=False`
    - `write_back`: the keys of ours that are the same on both sides. They are read from PHP's
      session in each request, and stored there when they have changed. With the principal's key a
      sign-in here is one in PHP, too, under a new id
    - `app_key`: Laravel's `APP_KEY`, if it is Laravel's cookie
    - `gc_maxlifetime`: as `session.gc_maxlifetime`, in seconds. What is written lives so long
    - `timeout`: as `RedisStore` has it

    Raises `ConfigurationError`.
    """

    __repr__ = silent_repr
    __rich_repr__ = no_fields

    @stripped
    def __init__(
        self,
        url_or_client: Any,
        *,
        prefix: str | None = None,
        serializer: Serializer = "php",
        compression: Compression | None = None,
        cookie: str = "PHPSESSID",
        path: str = "/",
        domain: str | None = None,
        https_only: bool = True,
        same_site: SameSite = "lax",
        map: MapOption | None = None,  # noqa: A002 - as the other sources have it
        follow: bool = True,
        once: bool = False,
        write_back: Collection[str] = (),
        gc_maxlifetime: Duration = _GC_MAXLIFETIME,
        app_key: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self._store = RedisStore(url_or_client, timeout=timeout)
        in_cluster = is_cluster(self._store)
        if prefix is None:
            prefix = _CLUSTER_PREFIX if in_cluster else _PREFIX
        elif not prefix.isascii() or not (prefix.isprintable() or not prefix):
            raise ConfigurationError(f"prefix={prefix!r}: write printable ASCII, or ''")
        self._prefix = prefix
        self._locks = not in_cluster  # phpredis' handler for Clusters has no lock
        if serializer not in SERIALIZERS:
            raise ConfigurationError(f"serializer={serializer!r}: write one of {SERIALIZERS}")
        self._serializer: Serializer = serializer
        if compression not in (None, *_COMPRESSIONS):
            raise ConfigurationError(
                f"compression={compression!r}: write one of {_COMPRESSIONS}, or None"
            )
        try:
            self._decompress = None if compression is None else decompressor(compression)
            self._compress = None if compression is None else compressor(compression)
        except ImportError as exc:
            raise ConfigurationError(
                f"compression={compression!r} needs a package: pip install 'redis-sessions[php]'"
            ) from exc
        self._transport = CookieTransport(
            cookie, path=path, domain=domain, https_only=https_only, same_site=same_site
        )
        self._laravel = None if app_key is None else laravel_cookie(app_key, cookie)
        self.cookie = cookie
        self.path = path
        self.domain = domain
        self.once = once
        self.follow = follow
        shared = listed(write_back)
        self.shares: frozenset[str] = frozenset(shared)
        if None in shared:
            raise ConfigurationError(f"write_back={write_back!r}: write a set such as {{'cart'}}")
        if self.shares and not follow:
            raise ConfigurationError("write_back= needs follow=True")
        self._mapped = mapped_by(map)
        self._takes_objects = by_function = map is not None and not isinstance(map, Mapping)
        paths: Mapping[str, str] = cast("Any", map) if isinstance(map, Mapping) else {}
        self._paths = {
            ours: str(paths[ours]).split(".") if ours in paths else [ours] for ours in self.shares
        }
        if self.shares and by_function:
            raise ConfigurationError("write_back= needs map= as a dict, which says where to write")
        if paths and not self.shares <= paths.keys():
            missing = sorted(self.shares - paths.keys())
            raise ConfigurationError(f"write_back={missing!r}: write these keys into map=, too")
        self._lifetime = seconds(gc_maxlifetime, "gc_maxlifetime") * 1000

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None:
        mapped = self._mapped(data)
        return mapped if mapped is None or self._takes_objects else _without_objects(mapped)

    async def find(self, value: str) -> Found | str | None:
        """The session that the cookie names. What isn't an id sends no command."""
        id = self.id_of(value)
        if id is None:
            return "malformed" if self._laravel is None else "bad signature"
        stored = await self._load(id)
        if stored is None:
            return None
        data = self._decoded(stored)
        return "undecodable" if data is None else Found(data, id, None)

    def id_of(self, value: str) -> str | None:
        """The id in the cookie's value; None if it is none. PHP writes a comma as `%2C`."""
        id = unquote(value) if self._laravel is None else self._laravel.open(value)
        return None if id is None or _ID.match(id) is None else id

    async def read(self, id: str) -> dict[str, Any] | None:
        """What the session holds now; None if it isn't there. It waits for no lock.

        With `write_back` it lives `gc_maxlifetime` from now on, as after a request to PHP.
        """
        if not self.shares:
            stored = await self._load(id)
        else:
            renew = self._send(id, "PEXPIRE", self._lifetime)
            stored, _ = await asyncio.gather(self._load(id), renew)
        return None if stored is None else self._decoded(stored)

    async def write(
        self,
        id: str,
        values: Mapping[str, Any],
        same: Callable[[dict[str, Any]], bool] = lambda _: True,
    ) -> bool:
        """Store these keys of ours in the session. False if it isn't there any more, or isn't the
        `same` user's by what it holds.

        It holds phpredis' lock, and replaces nothing but what it has read: so a session that PHP
        ends at the same time doesn't come back. `SessionConflictError` if PHP doesn't release the
        lock in time.
        """
        key, life, loop = self._prefix + id, self._lifetime, asyncio.get_running_loop()
        async with self._lock(id):
            ends = loop.time() + _HOLD / 2
            while loop.time() < ends:
                stored = await self._load(id)
                data = None if stored is None else self._decoded(stored)
                if stored is None or data is None or not same(data):
                    return False
                self._put(data, values)
                swap = SWAP.call([key], (stored, self._replaced(stored, data, values), life))
                size = 2 * len(stored) + 256
                if await servers_of(self._store).index_commands.submit(
                    IndexCommand(key, swap), size
                ):
                    return True
        raise SessionConflictError("PHP changed the session again and again")

    def new_id(self) -> str:
        """An id of 160 random bits, in 40 digits: PHP takes any length, and Laravel this one."""
        return token_hex(20)

    async def begin(self, id: str, data: dict[str, Any], values: Mapping[str, Any]) -> RawHeader:
        """Begin a session with what another one held, and with these keys of ours.

        Returns the header that gives the browser its cookie. The id is a new one, so that nobody
        knows it who knew the other (OWASP ASVS 5.0, 7.2.4).
        """
        self._put(data, values)
        try:
            new = encode(data, self._serializer)
        except PhpFormatError as exc:
            raise SessionEncodeError(f"write_back=: {exc}") from None
        await self._send(id, "SET", self._packed(new), "NX", "PX", self._lifetime)
        return self._transport.send(id if self._laravel is None else self._laravel.seal(id), None)

    async def end(self, id: str) -> None:
        """Remove the session, when no request to PHP has its lock any more.

        Such a request would store it again. If that takes too long, it is removed all the same.
        """
        try:
            async with self._lock(id):
                await self._send(id, "DEL")
        except SessionConflictError:
            await self._send(id, "DEL")

    def expire(self) -> RawHeader:
        """The header that removes the cookie from the browser."""
        return self._transport.expire()

    async def close(self) -> None:
        """Close the connections of this event loop."""
        await self._store.close()

    def _lock(self, id: str) -> AbstractAsyncContextManager[None]:
        if not self._locks:
            return nullcontext()
        return lock_by_name(self._store, f"{self._prefix}{id}_LOCK", wait=_WAIT, hold=_HOLD)

    async def _load(self, id: str) -> bytes | None:
        return await servers_of(self._store).loads.submit(self._prefix + id, 64)

    async def _send(self, id: str, name: str, *arguments: Any) -> Any:
        key = self._prefix + id
        command = IndexCommand(key, (name, key, *arguments))
        return await servers_of(self._store).index_commands.submit(command, 512)

    def _decoded(self, stored: bytes) -> dict[str, Any] | None:
        if len(stored) > _LARGEST:
            return None
        try:
            plain = self._plain(stored)
            return cast("dict[str, Any]", decode(plain, self._serializer, max_size=_LARGEST))
        except PhpFormatError:
            return None

    def _plain(self, stored: bytes) -> bytes:
        return stored if self._decompress is None else self._decompress(stored, _LARGEST)

    def _replaced(self, stored: bytes, data: Mapping[Any, Any], values: Mapping[str, Any]) -> bytes:
        """What is stored, with those values of `data` that the map names for these keys."""
        names = {self._paths[ours][0] for ours in values}
        kept = {name: data[name] for name in names if name in data}
        try:
            plain = self._plain(stored)
            gone = names - kept.keys()
            new = replace(plain, self._serializer, kept, gone, max_size=_LARGEST)
        except PhpFormatError as exc:
            raise SessionEncodeError(f"write_back=: {exc}") from None
        return self._packed(new)

    def _packed(self, plain: bytes) -> bytes:
        return plain if self._compress is None else self._compress(plain)

    def _put(self, data: dict[str, Any], values: Mapping[str, Any]) -> None:
        """Put values of ours where the map says that they are in PHP's session."""
        for ours, value in values.items():
            *way, last = self._paths[ours]
            inner = data
            for step in way:
                found: Any = inner.get(step)
                if isinstance(found, list):  # an array with the keys 0, 1, 2 …
                    found = inner[step] = mapping_of(found)
                elif found is None:
                    found = {}
                    if value is not None:
                        inner[step] = found
                if not isinstance(found, dict):
                    raise SessionEncodeError(f"write_back={ours!r}: its path isn't an array in PHP")
                inner = cast("dict[str, Any]", found)
            if value is None:
                inner.pop(last, None)
            else:
                inner[last] = value


def _without_objects(data: Mapping[Any, Any]) -> dict[str, Any]:
    return {k: v for k, v in data.items() if isinstance(k, str) and not _has_object(v)}


def _has_object(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_object, cast("Iterable[Any]", value.values())))
    if isinstance(value, list):
        return any(map(_has_object, cast("Iterable[Any]", value)))
    return isinstance(value, PhpObject)
