"""A cache on the sessions' store: a value that takes long to load is loaded once, and then kept.

    user = await cache.get_or_set(f"user:{id}", load, ttl=60, as_=User)

If Redis fails, the value is loaded. Keys and values are sealed: whoever reads Redis sees neither.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from functools import partial
from inspect import isawaitable
from math import inf, log
from typing import Any, Final, TypeVar, overload
from uuid import UUID

from redis_sessions.errors import ConfigurationError, StoreError
from redis_sessions.events import EventHandler, Reporter
from redis_sessions.session.box import Box
from redis_sessions.session.keyring import Keyring, Keys, keyring_of
from redis_sessions.session.principal import Principal
from redis_sessions.session.session import Session
from redis_sessions.session.state import LONGEST, Duration
from redis_sessions.session.threads import awaited
from redis_sessions.session.values import Values, decode_value
from redis_sessions.stores import StoreOption, open_store
from redis_sessions.stores.caching import Entries, Entry, Place, Snapshot
from redis_sessions.stores.protocols import clock_of
from redis_sessions.stores.single_flight import SingleFlight, Terms
from redis_sessions.tracebacks import stripped

__all__ = ["Cache"]

T = TypeVar("T")
Plain = TypeVar(
    "Plain",
    bound=bool | int | float | str | bytes | list[Any] | Mapping[Any, Any] | None,
)
"""What looks the same after it was kept. Anything else needs `as_`."""

MAX_SIZE: Final = 256 * 1024
"""The most bytes of an encoded value that is kept."""
_NOTHING: Final = b"\xc0"
"""None, encoded."""

_canonical: Final = Principal("user_id").canonical


class Cache:
    """Values by key, loaded when they are missing.

        cache = Cache("redis://localhost", secret_key)

    With sessions it is `manager.cache`.

    - `store`: a store, a URL, or a redis-py asyncio client
    - `keyring`: a `Keyring`, a secret key, or a list of keys with the newest first
    - `max_size`: the most bytes of an encoded value. A larger one isn't kept, and the log says so
    - `on_event`: is called with an `Event` if an entry doesn't open
    - `enc_hook`, `dec_hook`: msgspec's
    - `clock`, for tests: gives seconds since the epoch

    Raises `ConfigurationError`.
    """

    _scope: str | None = ""
    """Whose entries these are. "": they are the same for all. None: nothing is kept."""
    _group: str | None = None
    """The group of entries that are forgotten together. None: there is no group."""

    @stripped
    def __init__(
        self,
        store: StoreOption,
        keyring: Keyring | Keys,
        *,
        max_size: int = MAX_SIZE,
        on_event: EventHandler | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
        dec_hook: Callable[[type, Any], Any] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if type(max_size) is not int or max_size < 1:
            raise ConfigurationError(f"max_size={max_size!r}: write bytes, such as {MAX_SIZE}")
        opened = open_store(store)
        box = Box(keyring_of(keyring), opened.prefix, b"rs-cache")
        self._entries = Entries(opened, box, clock_of(opened) if clock is None else clock)
        self._values = Values(
            max_size=max_size, enc_hook=enc_hook, dec_hook=dec_hook, where="cache"
        )
        self._reporter = Reporter(on_event)
        self._entries.rejected = partial(self._reporter.report, "rejected", "cache entry")
        self._single = SingleFlight(self._entries, self._reporter.counts)

    @property
    def counts(self) -> Counter[str]:
        """How often each thing happened: `hit`, `load`, `early`, `stale`, `rejected` and others."""
        return self._reporter.counts

    @overload
    async def get_or_set(
        self,
        key: str,
        load: Callable[[], Awaitable[Plain]],
        *,
        ttl: Duration,
        negative_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        lock: Duration = 10,
        beta: float = 1.0,
    ) -> Plain: ...
    @overload
    async def get_or_set(
        self,
        key: str,
        load: Callable[[], Awaitable[object]],
        *,
        ttl: Duration,
        as_: type[T],
        negative_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        lock: Duration = 10,
        beta: float = 1.0,
    ) -> T | None: ...
    @awaited
    async def get_or_set(
        self,
        key: str,
        load: Callable[[], Awaitable[Any]],
        *,
        ttl: Duration,
        as_: Any = None,
        negative_ttl: Duration | None = None,
        stale_if_error: Duration | None = None,
        lock: Duration = 10,
        beta: float = 1.0,
    ) -> Any:
        """The value of a key: as it is kept, or what `await load()` gives, which is then kept.

            user = await cache.get_or_set("user:7", load_user, ttl=60, as_=User)

        Whoever asks gets an object of their own, in the types that MessagePack has, or as `as_`: a
        msgspec Struct, dataclass, attrs or pydantic class ... So a value that was just loaded looks
        as it will when it comes from Redis. All durations are seconds, or a timedelta.

        - `ttl`: how long it is kept
        - `negative_ttl`: how long None is kept. Without it None isn't kept
        - `stale_if_error`: how long after `ttl` the value stands in for a load that raises
        - `lock`: how long others wait for a load. A load that takes longer isn't kept
        - `beta`: how early it is loaded anew; 0 is never before `ttl` is over. It is that of XFetch
          (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention,
          VLDB 2015), which has one of many callers do it, the earlier the longer a load takes

        At the same time it is loaded once, in one process and among all. It raises what `load`
        raises, to all who wait; `SessionEncodeError` if the value can't be encoded; and ValueError
        if it doesn't fit `as_`. No failure of Redis is an error.
        """
        terms = Terms(
            _milliseconds(ttl, "ttl"),
            0 if negative_ttl is None else _milliseconds(negative_ttl, "negative_ttl"),
            0 if stale_if_error is None else _milliseconds(stale_if_error, "stale_if_error"),
            _milliseconds(lock, "lock"),
            _NOTHING,
            self._values.max_size,
        )
        if beta.__class__ not in (float, int) or not 0 <= beta < inf:
            raise ConfigurationError(f"beta={beta!r}: write a number, from 0")
        encoded = partial(self._encoded, key, load)
        place = self._place(key)
        if place is None:
            return self._decoded(key, await encoded(), as_)
        early = beta and beta * -log(1 - random.random())  # noqa: S311 - not a secret
        arrived = self._single.arrive()
        entry, seen = self._fresh(self._entries.near(place), early), None
        if entry is None:
            seen = await self._look(place)
            entry = self._fresh(seen, early)
        if entry is not None:
            try:
                value = self._decoded(key, entry.value, as_)
            except ValueError:  # another version of the application has stored it
                seen = await self._misfit(place, seen)
            else:
                self.counts["hit"] += 1
                return value
        loaded = await self._single.value(place, seen, terms, encoded, arrived)
        try:
            return self._decoded(key, loaded, as_)
        except ValueError:  # perhaps another process has loaded it, of another version
            seen = await self._misfit(place, None)
        loaded = await self._single.value(place, seen, terms, encoded, arrived)
        return self._decoded(key, loaded, as_)

    @awaited
    async def forget(self, key: str) -> None:
        """Have the next call load the value of this key. Call it after you have changed the value.

        A load that is under way doesn't bring the former value back. Raises
        `StoreUnavailableError`: the value may be kept then until its `ttl` is over.
        """
        place = self._place(key)
        if place is not None:
            self._single.forget(place)
            await self._entries.forget(place.context)

    @awaited
    async def forget_principal(self, principal: str | int | UUID) -> None:
        """Forget all entries of a principal, and those of their sessions, in one step.

        It doesn't matter how many there are. Raises what `forget()` raises.
        """
        group = f"group:{_canonical(principal)}"
        self._single.forget_group(group)
        await self._entries.forget(group)

    @stripped
    def of_principal(self, principal: str | int | UUID) -> Cache:
        """The entries of one principal: `cache.of_principal(user).get_or_set("role", …)`."""
        name = _canonical(principal)
        return self._part(f"principal:{name}", f"group:{name}")

    @stripped
    def of(self, session: Session) -> Cache:
        """The entries of one session. Nobody finds them once its id is another, or it has ended.

        If somebody is signed in, `forget_principal()` forgets them, too. A session that isn't
        stored yet has none: each call loads.
        """
        id, principal = session.id, session.principal
        scope = None if id is None else f"session:{id}"
        return self._part(scope, None if principal is None else f"group:{principal}")

    @stripped
    async def close(self) -> None:
        """Close the store's connections of the running event loop. With sessions: the manager's."""
        await self._entries.store.close()

    def _part(self, scope: str | None, group: str | None) -> Cache:
        part = Cache.__new__(Cache)
        vars(part).update(vars(self))
        part._scope, part._group = scope, group
        return part

    def _place(self, key: Any) -> Place | None:
        if not isinstance(key, str):
            raise ConfigurationError(f"key={key!r}: write a str")
        scope = self._scope
        if scope is None:
            return None
        return self._entries.place(f"{len(scope)}:{scope}:{key}", self._group)

    # -- what is stored

    async def _look(self, place: Place) -> Snapshot | None:
        """What is stored; None if the store is away."""
        try:
            return await self._entries.look(place)
        except StoreError:
            self.counts["unavailable"] += 1
            return None

    async def _misfit(self, place: Place, seen: Snapshot | None) -> Snapshot | None:
        """What is stored, without the value, since this doesn't fit `as_`. It is counted."""
        self.counts["misfit"] += 1
        seen = await self._look(place) if seen is None else seen
        return None if seen is None else seen._replace(entry=None)

    def _fresh(self, seen: Snapshot | None, early: float) -> Entry | None:
        """The entry that was found. None: its value is to be loaded.

        A value is loaded when its `ttl` is over. It is loaded earlier if nobody else does so, and
        if the `ttl` will be over after `early` times as long as a load takes (XFetch).
        """
        entry = None if seen is None else seen.entry
        now = self._entries.now()
        if entry is None or not entry.value or now >= entry.fresh_until:
            return None
        if entry.busy_until <= now and now + entry.took * early >= entry.fresh_until:
            return None
        return entry

    def _decoded(self, key: str, encoded: bytes, as_: Any) -> Any:
        try:
            value = decode_value(encoded)
        except Exception as exc:
            raise ValueError(f"cache[{key!r}] can't be decoded") from exc
        return value if as_ is None or value is None else self._values.convert(key, value, as_)

    async def _encoded(self, key: str, load: Callable[[], Awaitable[Any]]) -> bytes:
        given: Any = load()
        if not isawaitable(given):
            raise ConfigurationError(
                f"load= returns {type(given).__name__}: write an async function"
            )
        return self._values.encode_value(key, await given)


def _milliseconds(duration: Duration, name: str) -> int:
    """A duration in milliseconds. `ConfigurationError` unless it is above 0, up to 400 days."""
    each: Any = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(each, bool) or not isinstance(each, (int, float)) or not 0 < each <= LONGEST:
        raise ConfigurationError(
            f"{name}={duration!r}: write seconds or a timedelta, above 0 and up to 400 days"
        )
    return max(1, int(each * 1000))
