"""What is sent to a session, to its principal and to all, until the session ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from redis_sessions.errors import ConfigurationError
from redis_sessions.lifecycle.backend import Backend
from redis_sessions.lifecycle.watching import Watch
from redis_sessions.messages import Messages, feed_of
from redis_sessions.session.listening import Listening, Message, Missed
from redis_sessions.session.record import Reject
from redis_sessions.session.session import Session, state_of
from redis_sessions.stores.protocols import Watchable

__all__ = ["messages"]


def messages(backend: Backend, find: Callable[[], Messages], session: Session) -> Listening:
    """What `session.messages()` does. `find` gives the manager's messages."""
    store = backend.watchable
    if store is None:
        raise ConfigurationError(
            f"session.messages() needs a store that tells of changes, and {type(backend.store)!r} "
            "has no watch(): use a RedisStore, or write one as redis_sessions.stores.protocols."
            "Watchable describes it"
        )
    return Listening(partial(_listening, backend, store, find(), session))


@asynccontextmanager
async def _listening(
    backend: Backend, store: Watchable, messages: Messages, session: Session
) -> AsyncGenerator[AsyncGenerator[Message | Missed]]:
    """Listen as the session that is stored. An id has one principal for life.

    So a listener that ends with its session never gets what is sent to another user. The session
    may have ended since it was loaded. So it is looked at once more, when nothing can be missed.
    """
    state = state_of(session)
    stored = state.live
    if stored is None:
        async with aclosing(_nothing()) as read:
            yield read
        return
    feed = feed_of(messages, stored.token.id, state.principal)
    context = state.request.context
    connection = None if context is None else context.opened()

    def ended(why: Reject) -> None:
        feed.stop()
        if connection is not None:
            connection.session_ended(why)  # the application may return now

    watch = Watch(backend, store, session, ended)
    leave = None if connection is None else connection.until_over(feed.stop)
    try:
        async with feed, aclosing(feed.read()) as read:
            await watch.look()
            yield read
    finally:
        watch.stop()
        if leave is not None:
            leave()


async def _nothing() -> AsyncGenerator[Message | Missed]:
    return
    yield
