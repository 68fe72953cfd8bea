"""Sources whose sessions are shared with ours: both sides read and write the same keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from redis_sessions.errors import ConfigurationError, SessionEncodeError
from redis_sessions.http.headers import RawHeader
from redis_sessions.lifecycle import accepting
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.session import values
from redis_sessions.session.accepted import Accepted, Origin
from redis_sessions.session.record import Stored
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.values import Changes

__all__ = ["BOTH_SIDES", "Shared", "Sharing", "add_own_data", "contexts"]

BOTH_SIDES: Final = -1
"""`Origin.at` of a session that began here, and there with it."""


class Shared(Protocol):
    """What a `Source` has in addition if its sessions are shared. Its `follow` is True."""

    @property
    def cookie(self) -> str: ...

    @property
    def shares(self) -> frozenset[str]:
        """Which keys of our sessions are shared, so that they are the same on both sides."""
        ...

    def map(self, data: dict[str, Any]) -> Mapping[str, Any] | None: ...

    def id_of(self, value: str) -> str | None:
        """The id that a cookie's value names, whether there is such a session or not."""
        ...

    async def read(self, id: str) -> dict[str, Any] | None:
        """What a session holds now. None: it isn't there any more."""
        ...

    async def write(
        self, id: str, values: Mapping[str, Any], same: Callable[[dict[str, Any]], bool]
    ) -> bool:
        """Store these keys of ours; None in the place of a value removes it. False: the session
        isn't there any more, or isn't the `same` user's by what it holds.

        `SessionConflictError`, `SessionEncodeError`, `StoreError`.
        """
        ...

    def new_id(self) -> str:
        """What names a session that is to begin."""
        ...

    async def begin(self, id: str, data: dict[str, Any], values: Mapping[str, Any]) -> RawHeader:
        """Begin a session with what another one held, and with these keys of ours.

        Returns the header that gives the browser its cookie.
        """
        ...

    async def end(self, id: str) -> None: ...

    def expire(self) -> RawHeader:
        """The header that removes the cookie from the browser."""
        ...


class Sharing:
    """The shared sources of one middleware."""

    def __init__(self, backend: Backend, sources: Mapping[str, Any]) -> None:
        self._backend = backend
        self._sources = cast("Mapping[str, Shared]", sources)

    async def read(self, session: Session, origin: Origin) -> bool:
        """Give the session what it shares. False if it has ended there, or is another user's."""
        source, backend, state = self._sources[origin.source], self._backend, state_of(session)
        data = await source.read(origin.id)
        mapped = None if data is None else source.map(data)
        if mapped is None:
            return False
        mine = {key: session[key] for key in source.shares if key in session}
        encoded = backend.values.encode(mine)
        whose = backend.principal.of(backend.values.encode(dict(mapped)))
        if whose != state.principal:
            signed_in_here = not origin.at and backend.principal.of(encoded) is None
            if whose is not None or not signed_in_here:
                return False
        theirs = {key: mapped[key] for key in source.shares if key in mapped}
        state.shared = backend.values.encode(theirs)
        if encoded != state.shared:
            for key in mine.keys() - theirs.keys():
                dict.pop(session, key)
            plain = values.decode(state.shared)  # as it is when it was stored
            dict.update(session, plain)
            state.origins.hold(plain)
        return True

    def moved(self, origin: Origin, cookies: Sequence[str]) -> bool:
        """Whether the browser's cookies name other sessions than this one.

        The source may have given it a new id, and have kept the session under the old one.
        """
        source = self._sources.get(origin.source)
        ids = set[str | None]() if source is None else {*map(source.id_of, cookies)}
        return origin.id not in ids and bool(ids - {None})

    def shared_data(self, name: str, data: bytes) -> bytes | None:
        """The shared keys of these data, encoded. None: this source shares nothing."""
        source = self._sources.get(name)
        return None if source is None else values.join(_shared(source, values.split(data)))

    def new(self, data: bytes, principal: str | None) -> Origin | None:
        """The foreign session that a new one of ours will follow. None: no source shares its data.

        If somebody is signed in, a source has to share who it is.
        """
        for name, source in self._sources.items():
            parts = _shared(source, values.split(data))
            if source.shares and self._backend.principal.of(values.join(parts)) == principal:
                return Origin(name, source.new_id(), BOTH_SIDES)
        return None

    async def begin(
        self, origin: Origin, stored: Stored, old: Origin | None
    ) -> tuple[tuple[bytes, bytes], ...]:
        """Begin a session at the source. The data of `old` go along if nobody was signed in by it.

        The new one counts as accepted. So it signs nobody in again after ours has ended.
        """
        source, held = self._sources[origin.source], None
        if old is not None and old.source == origin.source:
            held = await source.read(old.id)
            mapped = None if held is None else source.map(held)
            if mapped is None or self._principal(mapped) is not None:
                held = None
        shared = values.decode(values.join(_shared(source, values.split(stored.data))))
        nobodys, somebodys = contexts(self._backend, source.cookie, origin.id)
        context = nobodys if self._backend.principal.of(stored.data) is None else somebodys
        await accepting.note(self._backend, context, stored.token.id)
        return (await source.begin(origin.id, held or {}, shared),)

    async def write(self, origin: Origin, changed: Changes, whose: str | None) -> None:
        """Store shared keys that have changed at the source, unless it is another user's by now."""
        source = self._sources.get(origin.source)
        shared = {} if source is None else _shared(source, changed)
        if source is not None and shared:
            await source.write(
                origin.id,
                {k: None if raw is None else values.decode_value(raw) for k, raw in shared.items()},
                lambda data: self._principal(source.map(data) or {}) in (None, whose),
            )

    def expiry(self, origin: Origin) -> tuple[tuple[bytes, bytes], ...]:
        """The headers that remove the cookie of a session that has ended at its source."""
        source = self._sources.get(origin.source)
        return () if source is None else (source.expire(),)

    def _principal(self, mapped: Mapping[str, Any]) -> str | None:
        try:
            return self._backend.principal.of(self._backend.values.encode(dict(mapped)))
        except (SessionEncodeError, ConfigurationError):
            return ""


def add_own_data(
    backend: Backend, session: Session, accepted: Accepted, shares: frozenset[str] = frozenset()
) -> None:
    """Add the data of our session to those of the accepted one, if they are nobody's or the same
    user's.

    For example, a visitor has filled a cart here, and then signs in elsewhere. If both have a key,
    the accepted session's value counts. A key that is shared is only taken from there.
    """
    state, whose = state_of(session), accepted.principal
    if state.stored is None:
        return
    if whose is None:
        goes = state.principal is None and state.stored.record.owner is None
    else:
        goes = not state.is_anothers(whose, backend.keyring)
    if goes:
        alone = {key: value for key, value in session.items() if key not in shares}
        data = backend.values.encode({**alone, **values.decode(accepted.data)})
        if len(data) <= backend.policy.max_size and backend.principal.of(data) == whose:
            accepted.data = data


def contexts(backend: Backend, cookie: str, id: str) -> tuple[str, str]:
    """What the markers of a foreign id are sealed for: one while nobody is signed in by it, and one
    when somebody is.
    """
    context = f"{backend.store.prefix} {cookie} {id}"
    return context, f"{context} "


def _shared(source: Shared, parts: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: raw for key, raw in parts.items() if key in source.shares}
