"""Sessions of other libraries: a browser that has one of theirs, and none of ours, is known here.

A source finds the session that a cookie names, and says which of its data become ours. Nothing is
stored until the response. Then `outcome.decide` judges it as any other session that begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any, Final

from starlette.types import Scope

from redis_sessions.errors import ConfigurationError, SessionEncodeError, StoreError
from redis_sessions.events import client, logger
from redis_sessions.http.headers import RawHeader, stays_open
from redis_sessions.http.sharing import Sharing, add_own_data, contexts
from redis_sessions.http.sources import Found, Source
from redis_sessions.http.transports import CookieTransport, Transports
from redis_sessions.lifecycle import accepting, loading
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.session.accepted import Accepted, Origin
from redis_sessions.session.session import Session, state_of
from redis_sessions.session.state import LIVE, LONGEST, Bound, State, Status
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import EMPTY, decode
from redis_sessions.tracebacks import strip

__all__ = ["Accepting", "accepting_of"]

LONGEST_COOKIE: Final = 8192
"""The characters of a foreign cookie that is looked at. Browsers keep 4096 bytes."""
MOST_COOKIES: Final = 3
"""How many cookies of one name are looked at."""

_LATER: Final = (0.1, 0.2, 0.4, 0.8)
"""Seconds until a source is asked again for a session whose id the browser has. PHP sends the id
first, and stores the session when the request ends."""

_NOBODYS: Final = (Status.NEW, Status.STALE)
_CLOSED: Final = (Status.SUPERSEDED, Status.ROTATED)


class Accepting:
    """The sources of one middleware."""

    def __init__(
        self, sources: Sequence[Source], backend: Backend, headers: Transports | None
    ) -> None:
        self._backend = backend
        self._sources = [_CookieSource(source) for source in sources]
        self._headers = headers
        """The transports that no browser sends by itself. None: there are none."""
        self.names = frozenset(each.name for each in self._sources)
        self._followed = {each.name: each.source for each in self._sources if each.source.follow}
        self.follows = bool(self._followed)
        backend.accepts = True
        if self.follows:
            backend.sources.add(self)
        shared = {n: s for n, s in self._followed.items() if hasattr(s, "shares")}
        self.sharing = Sharing(backend, shared) if shared else None
        self._shared = shared.keys()
        self.without_cookies: Accepting = copy(self)
        """The same for requests whose cookies don't count. It accepts nothing, and follows."""
        self.without_cookies._sources, self.without_cookies._headers = [], None

    def brings(self, scope: Scope) -> bool:
        """Whether a request brings the cookie of a source."""
        return any(each.read(scope) for each in self._sources)

    def loader(self, load: loading.Load, scope: Scope) -> loading.Load:
        """A `Load` that calls `load`, and asks the sources if this finds no session.

        A script can add a header. It isn't given the session of a cookie that it can't read.
        """
        used = self._headers is not None and self._headers.are_used(scope)
        accepting = self.without_cookies if used else self
        return partial(accepting._load, load, scope)

    async def close(self) -> None:
        """Close the sources' connections of this event loop."""
        for each in self._sources:
            await each.source.close()

    async def _load(
        self, load: loading.Load, scope: Scope, tokens: Sequence[str], *, bound: Bound
    ) -> Session:
        session = await load(tokens, bound=bound)
        state = state_of(session)
        state.sources = self
        if state.status is LIVE:
            if not self._followed:
                return session
            moved = self._moved(state, scope)
            accepted = None if moved is None else await self._find_at(moved, scope)
            if accepted is None and await self._has_ended(session, moved, scope):
                accepted = await self._find(scope)
            elif accepted is None:
                if state.principal is None and self._shared:  # somebody may have signed in there
                    accepted = await self._find(scope, signed_in=True)
                if accepted is None:
                    return session
            source = None if accepted is None else self._followed.get(accepted.source)
            if accepted is not None and source is not None:
                shares: frozenset[str] = getattr(source, "shares", frozenset())
                add_own_data(self._backend, session, accepted, shares)
            session = self._after(state, bound)
        elif state.status in _CLOSED:
            if self._followed:
                await self._find(scope)  # it may have to end
            return session
        elif state.status not in _NOBODYS or state.opened:
            return session
        else:
            accepted = await self._find(scope)
        if accepted is not None:
            self._fill(session, accepted)
        elif self.sharing is not None:
            shared = [each for each in self._sources if each.name in self._shared]
            # So that none begins there in its place. Without cookies nobody knows.
            if not self._sources or await self._has_another(shared, scope):
                state_of(session).shared = EMPTY
        return session

    async def _has_another(self, sources: Sequence[_CookieSource], scope: Scope) -> bool:
        """Whether the browser has a session at one of these. It isn't accepted."""
        values = [
            await each.source.find(value)
            for each in sources
            for value in each.read(scope)[:MOST_COOKIES]
        ]
        return any(found is not None for found in values)

    def _after(self, state: State, bound: Bound) -> Session:
        """A new session in the place of this one, which ends as by `clear()`.

        The foreign session that it has followed doesn't end: the source has ended it itself, or
        goes on with it.
        """
        session = loading.new(self._backend, bound, Status.STALE)
        if state.stored is not None:
            state.stored = state.stored.alone()
        new = state_of(session)
        new.opened, new.sources = (state,), self
        new.want(cleared=True)
        return session

    def _moved(self, state: State, scope: Scope) -> _CookieSource | None:
        """The source at which the browser has another session than the one that we follow."""
        origin = None if state.stored is None else state.stored.record.origin
        if self.sharing is None or origin is None or not origin.id:
            return None
        each = next((each for each in self._sources if each.name == origin.source), None)
        moved = each is not None and self.sharing.moved(origin, each.read(scope))
        return each if moved else None

    async def _find_at(self, moved: _CookieSource, scope: Scope) -> Accepted | None:
        """The session that the cookies name, if it is accepted, and is at this source."""
        accepted = await self._find(scope)
        return accepted if accepted is not None and accepted.source == moved.name else None

    async def _has_ended(self, session: Session, moved: _CookieSource | None, scope: Scope) -> bool:
        """Whether the session that ours follows has ended, or the one that took its place."""
        stored = state_of(session).stored
        origin = None if stored is None else stored.record.origin
        if stored is None or origin is None or not origin.id:
            return False
        source = self._followed.get(origin.source)
        left = moved is not None and await self._has_left(moved, scope)
        if not left and (source is None or await self._lives(session, source, origin)):
            return False
        self._reject(origin.source, "ended at its source", stored.token.id)
        if source is not None and not left:
            # It may begin anew by the same id, which PHP for example uses again.
            both = contexts(self._backend, source.cookie, origin.id)
            await accepting.forget(self._backend, both)
        return True

    async def _has_left(self, moved: _CookieSource, scope: Scope) -> bool:
        """Whether the browser has no session at this source any more, also after some attempts."""
        for pause in (0, *_LATER):
            await asyncio.sleep(pause)
            if await self._has_another([moved], scope):
                return False
        return True

    async def _lives(self, session: Session, source: Source, origin: Origin) -> bool:
        """Whether the session is still at its source, and the same user's.

        Some libraries keep the id when another user signs in.
        """
        backend, whose = self._backend, state_of(session).principal
        try:
            if self.sharing is not None and origin.source in self._shared:
                return await self.sharing.read(session, origin)
            data = await source.read(origin.id)
            mapped = None if data is None else source.map(data)
            theirs = None if mapped is None else loading.stored_principal(backend, dict(mapped))
        except StoreError:
            raise
        except Exception as exc:  # noqa: BLE001 - as in `_ask`
            strip(exc)
            logger.exception("sessions: accept=: %s failed", origin.source)
            return False
        signed_in_here = theirs is None and not origin.at
        return mapped is not None and (theirs == whose or signed_in_here)

    async def end(self, origin: Origin) -> bool:
        """End a session at its source. False: it is at none of these, or isn't followed."""
        source = self._followed.get(origin.source)
        if source is not None:
            await source.end(origin.id)
        return source is not None

    async def _find(self, scope: Scope, *, signed_in: bool = False) -> Accepted | None:
        """The one session that the cookies name, if it is accepted.

        `signed_in`: only sources that share sessions are asked, and somebody must be signed in.
        """
        found = list[Accepted]()
        for each in self._sources:
            if signed_in and each.name not in self._shared:
                continue
            values = each.read(scope)
            if len(values) > MOST_COOKIES or any(len(value) > LONGEST_COOKIE for value in values):
                self._reject(each.name, "too much")
                continue
            for value in values:
                accepted = await self._ask(each, value, scope, signed_in)
                if accepted is not None:
                    found.append(accepted)
        if len(found) > 1:
            self._reject(found[0].source, "several sessions")
            return None
        return found[0] if found else None

    async def brought(self, scope: Scope) -> list[Accepted]:
        """What the cookies name, whether it may be accepted or not."""
        asked = [
            await self._ask(each, value, scope, any_time=True)
            for each in self._sources
            for value in each.read(scope)[:MOST_COOKIES]
            if len(value) <= LONGEST_COOKIE
        ]
        return [each for each in asked if each is not None]

    async def _ask(
        self,
        each: _CookieSource,
        value: str,
        scope: Scope,
        signed_in: bool = False,
        any_time: bool = False,
    ) -> Accepted | None:
        """The session that this value names at this source, if it is accepted.

        `signed_in`: only if somebody is signed in by it. `any_time`: also one that isn't accepted.
        """
        backend, source = self._backend, each.source
        try:
            found = await source.find(value)
            if not isinstance(found, Found):
                if found is not None:
                    self._reject(each.name, found)
                return None
            mapped = source.map(found.data)
            data = None if mapped is None else backend.values.encode(dict(mapped))
            # One that is shared may be empty. What begins here is stored there, too.
            if data is None or (data == EMPTY and each.name not in self._shared):
                return None
            principal = backend.principal.of(data)
            if signed_in and principal is None:
                return None
            backend.values.check(data)
        except StoreError:
            raise
        except (SessionEncodeError, ConfigurationError) as exc:
            self._reject(each.name, "can't be stored")
            backend.reporter.warn_once(f"accept {each.name}", "sessions: accept=: %s", exc)
            return None
        except Exception as exc:  # noqa: BLE001 - the application's map, or a source of its own
            strip(exc)
            logger.exception("sessions: accept=: %s failed", each.name)
            self._reject(each.name, "failed")
            return None
        nobodys, somebodys = contexts(backend, source.cookie, found.id)
        context = nobodys if principal is None else somebodys
        # A process whose clock is behind may find a cookie valid for a while longer.
        ttl = LONGEST if found.ttl is None else min(max(0, found.ttl) + 3600, LONGEST)
        accepted = Accepted(
            source=each.name,
            stays_open=stays_open(scope),
            context=context,
            name=accepting.marker_name(context),
            id=found.id if source.follow else "",
            ttl=1000 * ttl,
            principal=principal,
            data=data,
            headers=each.expiry,
            signed_for=0 if principal is None else found.signed_for,
        )
        return accepted if any_time or await self._is_acceptable(accepted, found, source) else None

    async def _is_acceptable(self, accepted: Accepted, found: Found, source: Source) -> bool:
        """Whether a session is accepted: not a second time, and not after it was revoked."""
        backend, whose = self._backend, accepted.principal
        before = await accepting.marker(backend, accepted)
        if before is not None:
            # An open connection without a session of ours wouldn't end with it.
            if accepted.stays_open or not await accepting.is_under_way(backend, before, whose):
                self._reject(accepted.source, "accepted before")
                if source.follow and await accepting.has_ended(backend, before, whose):
                    await source.end(found.id)
                return False
            accepted.taken = before.id
        if found.since is not None and whose is not None:
            nobodys, at = SessionToken.generate().id, found.since * 1000
            if await backend.index.has_ended(whose, nobodys, at):
                self._reject(accepted.source, "revoked")
                return False
            if found.signed_for and await backend.signed.has_ended(whose, nobodys, at):
                self._reject(accepted.source, "signed before a sign-out")
                return False
        return True

    def _fill(self, session: Session, accepted: Accepted) -> None:
        """Put the data into the new session, as data that were loaded, and not assigned."""
        state = state_of(session)
        data = decode(accepted.data)
        dict.update(session, data)
        state.origins.hold(data)
        accepted.follows_end = state.wanted.cleared
        state.accepted, state.base = accepted, accepted.data
        if self.sharing is not None:
            state.shared = self.sharing.shared_data(accepted.source, accepted.data)
        state.request.accessed = True
        if accepted.taken is not None:
            state.status = Status.SUPERSEDED
        state.want(modified=True)  # so that a sign-out isn't taken for no change

    def _reject(self, name: str, why: str, id: str | None = None) -> None:
        self._backend.report("rejected", f"{name}: {why}", id, by=client.get())


class _CookieSource:
    """A source, and how its cookie is read and removed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.name = type(source).__name__ + " " + source.cookie
        secure = source.cookie.startswith("__")
        transport = CookieTransport(
            source.cookie, path=source.path, domain=source.domain, https_only=secure
        )
        self._read = transport.read
        self.expiry: tuple[RawHeader, ...] = (transport.expire(),) if source.once else ()

    def read(self, scope: Scope) -> list[str]:
        """The values of the cookie, each one once."""
        return list(dict.fromkeys(filter(None, self._read(scope))))


def accepting_of(option: Any, transports: Transports, backend: Backend) -> Accepting | None:
    """What `accept=` says. `ConfigurationError`."""
    sources: list[Any] = [*option] if isinstance(option, (list, tuple)) else [option]
    if not sources:
        return None
    if any(isinstance(each, type) or not hasattr(each, "read") for each in sources):
        raise ConfigurationError(  # without what was given, which may be a key
            "accept= takes a list of sources, such as [StarletteCookie(secret_key)]"
        )
    ours = [each.name for each in transports.all if isinstance(each, CookieTransport)]
    if not ours:
        raise ConfigurationError(
            "accept= is for browsers, and they get the token in a cookie: remove it, or add a "
            "CookieTransport"
        )
    for source in sources:
        if source.cookie in ours:
            raise ConfigurationError(
                f"accept=: the cookie {source.cookie!r} is also the one of this middleware: give "
                "this one another session_cookie="
            )
        if source.once and source.follow:
            raise ConfigurationError(
                "accept=: a session can't be followed if its cookie expires: write once=True or "
                "follow=True"
            )
    accepting = Accepting(sources, backend, transports.unguarded())
    if len(accepting.names) < len(sources):
        raise ConfigurationError("accept=: write each source once")
    return accepting
