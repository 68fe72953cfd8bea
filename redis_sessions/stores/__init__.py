"""Where records live: the protocol, and the stores that come with the library."""

from __future__ import annotations

from functools import cache

from redis_sessions.connect.deployment import Client
from redis_sessions.errors import ConfigurationError
from redis_sessions.events import logger
from redis_sessions.stores.memory import MemoryStore
from redis_sessions.stores.protocols import (
    Commit,
    Entry,
    EntryStatus,
    SessionIndex,
    SessionStore,
    Store,
    Written,
)
from redis_sessions.stores.redis import RedisStore

__all__ = [
    "Commit",
    "Entry",
    "EntryStatus",
    "MemoryStore",
    "RedisStore",
    "SessionIndex",
    "SessionStore",
    "Store",
    "StoreOption",
    "Written",
    "open_store",
]

StoreOption = str | Client | Store
"""A URL, a redis-py client, or a ready store."""


def open_store(store: StoreOption | None, *, prefix: str | None = None) -> Store:
    """The store for a URL, a redis-py client or a ready store; `ConfigurationError`.

    `prefix` is for a store that is made here. A ready store has its own.
    """
    if store is None:
        raise ConfigurationError(
            "no store is given: write store='redis://localhost:6379/0', or store='memory://' in "
            "tests and 'embedded://' in development"
        )
    if isinstance(store, str) and store.split(":", 1)[0] == "memory":
        if store != "memory://":
            raise ConfigurationError("store='memory:…': write memory://, and no more")
        _warn_of_memory()
        return MemoryStore(prefix="session:" if prefix is None else prefix)
    if isinstance(store, Store):
        if prefix is not None and prefix != store.prefix:
            raise ConfigurationError(
                f"prefix={prefix!r} is not the store's {store.prefix!r}: give it to the store"
            )
        return store
    return RedisStore(store, prefix="session:" if prefix is None else prefix)


@cache  # once in a process
def _warn_of_memory() -> None:
    logger.warning(
        "sessions: memory:// keeps sessions in this process alone: other workers don't see them, "
        "and a restart ends them. It is for tests; for development write store='embedded://', in "
        "production redis://…"
    )
