"""Messages to everybody who listens now: to one user, to one session, or to all.

    messages = Messages("redis://localhost", secret_key)  # or manager.messages
    await messages.to_principal(user.id, {"kind": "export", "url": url})

Each message arrives at most once. Redis keeps none: whoever doesn't listen at that moment never
gets it. A listener that may have missed some messages gets a `Missed` in their place.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final, Self
from uuid import UUID

from redis_sessions.connect.loops import PerLoop
from redis_sessions.errors import ConfigurationError, SessionEncodeError
from redis_sessions.events import EventHandler, Reporter
from redis_sessions.session import values
from redis_sessions.session.box import Box, nonce_of
from redis_sessions.session.keyring import Keyring, Keys, keyring_of
from redis_sessions.session.keywords import suggesting
from redis_sessions.session.listening import Listening, Message, Missed
from redis_sessions.session.policy import DEFAULT_MAX_SIZE
from redis_sessions.session.principal import Principal
from redis_sessions.session.record import Reject
from redis_sessions.session.threads import awaited
from redis_sessions.session.token import is_id
from redis_sessions.session.values import Values
from redis_sessions.stores import Store, StoreOption, open_store
from redis_sessions.stores.pubsub import Publishing, PubSub
from redis_sessions.tracebacks import stripped

__all__ = ["Listening", "Message", "Messages", "Missed", "feed_of", "messages_of"]

QUEUE: Final = 256
"""How many messages wait for one listener. If there are more, the oldest are dropped."""
_REMEMBERED: Final = 4096
"""How many of the latest messages are known, since one may be sent twice."""
_ALL: Final = "all"
_MAPS: Final = frozenset({*range(0x80, 0x90), 0xDE, 0xDF})
"""The first bytes of maps in MessagePack."""


class Messages:
    """Sends messages, and listens to them. It needs no sessions.

        messages = Messages("redis://localhost", secret_key)

    - `store`: a store, a URL, or a redis-py asyncio client
    - `keyring`: a `Keyring`, a secret key, or a list of keys with the newest first
    - `max_size`: the most bytes that an encoded message may have
    - `on_event`: is called with each `Event`: `message_rejected`, for bytes in a channel that this
      library didn't seal for it
    - `enc_hook`: msgspec's

    With sessions, `manager.messages` has the manager's store, keys, hooks and events. All processes
    that have the same Redis, prefix and secret key hear each other. Raises `ConfigurationError`.
    """

    @stripped
    @suggesting({"secret_key": "keyring", "url": "store", "redis_url": "store"})
    def __init__(
        self,
        store: StoreOption,
        keyring: Keyring | Keys,
        *,
        max_size: int = DEFAULT_MAX_SIZE,
        on_event: EventHandler | None = None,
        enc_hook: Callable[[Any], Any] | None = None,
    ) -> None:
        store = open_store(store)
        if not isinstance(store, Publishing):
            raise ConfigurationError(
                f"messages need a store that has channels, and {type(store)!r} has no channels(): "
                "use a RedisStore, or write one as redis_sessions.stores.pubsub.Publishing "
                "describes it"
            )
        self._store = store
        self._channels = store.channels
        self._prefix = f"{store.prefix}msg:"
        self._box = Box(keyring_of(keyring), store.prefix, b"rs-message")
        self._principal = Principal("user_id")
        self._values = Values(max_size=max_size, enc_hook=enc_hook)
        self._reporter = Reporter(on_event, personal=False)
        self._openers = PerLoop(lambda: _Opener(self._box, self._reporter))

    @awaited
    async def to_principal(self, principal: str | int | UUID, message: Mapping[str, Any]) -> None:
        """Send it to all sessions of this user that listen now.

        Raises `SessionEncodeError` if it can't be encoded, or is over `max_size`; and
        `StoreUnavailableError`, after which nobody knows whether it was sent.
        """
        await self._send(self._to_principal(principal), message)

    @awaited
    async def to_session(self, id: str, message: Mapping[str, Any]) -> None:
        """Send it to the session with this id (`session.id`), as `to_principal` does."""
        await self._send(_to_session(id), message)

    @awaited
    async def to_all(self, message: Mapping[str, Any]) -> None:
        """Send it to all who listen now, also to sessions in which nobody is signed in."""
        await self._send(_ALL, message)

    @stripped
    def listen(
        self,
        *,
        principal: str | int | UUID | None = None,
        session: str | None = None,
        all: bool = False,  # noqa: A002 - to_all() is its counterpart
    ) -> Listening:
        """The messages to this user, to the session with this id, and those to all.

            async with messages.listen(principal=user.id, all=True) as listener:
                async for message in listener: ...

        Who may listen is for you to check, and it doesn't end by itself: `session.messages()` ends
        with the session. Raises `ConfigurationError`.
        """
        contexts = [_ALL] if all else []
        if principal is not None:
            contexts.append(self._to_principal(principal))
        if session is not None:
            contexts.append(_to_session(session))
        if not contexts:
            raise ConfigurationError(
                "listen() to what? Write principal=, session= or all=True, or several of them"
            )
        return Listening(partial(self._reading, contexts))

    @property
    def counts(self) -> Counter[str]:
        """How often each event happened, by name, and by `name: reason`."""
        return self._reporter.counts

    @stripped
    async def close(self) -> None:
        """Close the store's connections of the running event loop."""
        await self._store.close()

    def _to_principal(self, principal: str | int | UUID) -> str:
        return f"principal:{self._principal.canonical(principal)}"

    async def _send(self, context: str, message: Mapping[str, Any]) -> None:
        try:
            encoded = self._values.encode(message)
            self._values.check(encoded)
        except SessionEncodeError as exc:
            text = str(exc).replace("session", "message", 1)
            raise SessionEncodeError(text) from exc.__cause__
        if encoded[0] not in _MAPS:
            raise SessionEncodeError(f"a message is a dict, and not of type {type(message)!r}")
        # Under the primary key's name. Who listens does so under each key's of the ring: so a new
        # key is rolled out as for sessions, and no process is missed on the way.
        channel = self._prefix + self._box.names(context)[0]
        await self._channels().publish(channel, self._box.seal(context, encoded))

    @asynccontextmanager
    async def _reading(
        self, contexts: Iterable[str]
    ) -> AsyncGenerator[AsyncGenerator[Message | Missed]]:
        async with self._feed(contexts) as feed, aclosing(feed.read()) as read:
            yield read

    def _feed(self, contexts: Iterable[str]) -> Feed:
        names = {self._prefix + name: to for to in contexts for name in self._box.names(to)}
        return Feed(self._channels(), names, self._openers.get())


def messages_of(
    store: Store, keyring: Keyring, principal: Principal, values: Values, reporter: Reporter
) -> Messages:
    """The messages of a manager, with its parts. Raises `ConfigurationError`."""
    made = Messages(store, keyring)
    made._principal, made._values, made._reporter = principal, values, reporter  # pyright: ignore[reportPrivateUsage] - this module's own
    return made


def feed_of(messages: Messages, session: str, principal: str | None) -> Feed:
    """The feed of the session with this id. `principal`: who is signed in. None is nobody."""
    to = [] if principal is None else [f"principal:{principal}"]
    return messages._feed([_ALL, f"session:{session}", *to])  # pyright: ignore[reportPrivateUsage] - this module's own


class Feed:
    """What one listener gets. `names` has the context of each channel.

    At most 256 messages wait. If more come, the oldest are dropped, and a `Missed` says how many.
    """

    def __init__(self, channels: PubSub, names: Mapping[str, str], opener: _Opener) -> None:
        self._channels = channels
        self._names = names
        self._opener = opener
        self._waiting: deque[bytes | None] = deque()  # None: some may be missing here
        self._dropped: int | None = 0  # None: some, and nobody knows how many
        self._news = asyncio.Event()
        self._begun = False
        self._over = False
        self._end: Callable[[], None] | None = None

    async def __aenter__(self) -> Self:
        self._end = await self._channels.subscribe(list(self._names), self._told)
        self._begun = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._end is not None:
            self._end()

    def stop(self) -> None:
        """End it. What waits isn't given any more."""
        self._over = True
        self._waiting.clear()
        self._news.set()

    def _told(self, channel: str, sealed: bytes | None) -> None:
        if sealed is not None:
            encoded = self._opener.opened(self._names[channel], sealed, self)
            if encoded is not None:
                self._put(encoded)
        elif self._begun:
            self._put(None)

    def _put(self, item: bytes | None) -> None:
        if self._over or (item is None and self._waiting and self._waiting[-1] is None):
            return
        if len(self._waiting) >= QUEUE:
            first = self._waiting.popleft()
            known = None if first is None else self._dropped
            self._dropped = None if known is None else known + 1
        self._waiting.append(item)
        self._news.set()

    async def read(self) -> AsyncGenerator[Message | Missed]:
        """The messages, until `stop()`."""
        while not self._over:
            if self._dropped != 0:
                count, self._dropped = self._dropped, 0
                yield Missed(count)
            elif self._waiting:
                item = self._waiting.popleft()
                yield Missed() if item is None else values.decode(item)
            else:
                self._news.clear()
                await self._news.wait()


class _Opener:
    """Opens what arrives: once, however many listeners of this event loop get it."""

    def __init__(self, box: Box, reporter: Reporter) -> None:
        self._box = box
        self._reporter = reporter
        self._latest: tuple[str, bytes | None, bytes | None] = "", None, None
        self._given = set[int]()  # the feeds that have the latest one, by `id()`
        self._known: dict[bytes, None] = {}

    def opened(self, context: str, sealed: bytes, feed: Feed) -> bytes | None:
        """The encoded message; None if it was made by somebody else, or has come before."""
        latest = self._latest
        if latest[1] is not sealed or latest[0] != context or id(feed) in self._given:
            latest = self._latest = context, sealed, self._open(context, sealed)
            self._given.clear()
        self._given.add(id(feed))
        return latest[2]

    def _open(self, context: str, sealed: bytes) -> bytes | None:
        encoded = self._box.open(context, sealed)
        if encoded is None:
            self._reporter.report("message_rejected", Reject.SEAL)
            return None
        nonce = nonce_of(sealed)
        if nonce in self._known:
            return None
        self._known[nonce] = None
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        try:
            values.decode(encoded)
        except ValueError:
            self._reporter.report("message_rejected", Reject.CONTENT)
            return None
        return encoded


def _to_session(id: str) -> str:
    if not is_id(id):
        raise ConfigurationError(
            "that is no session's id: pass session.id, which is None until the session is stored"
        )
    return f"session:{id}"
