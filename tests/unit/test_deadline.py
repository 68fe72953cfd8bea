"""A write of a response ends before a tombstone does that it may have to find."""

from __future__ import annotations

import pytest

from redis_sessions import ConfigurationError, MemoryStore, RedisStore, SessionManager, generate_key
from redis_sessions.connect.connector import MAX_TIMEOUT
from redis_sessions.session.record import TOMBSTONE_TTL
from redis_sessions.stores.deadline import MAX_DEADLINE, longest_write
from redis_sessions.stores.durability import MAX_WAIT


class SlowStore(MemoryStore):
    """A store of one's own, whose writes may take long."""

    longest_write = 25.5


def test_a_write_that_would_outlive_a_tombstone_is_refused() -> None:
    """A manager takes no store and deadline that together are longer than a tombstone lives."""
    with pytest.raises(ConfigurationError, match="deadline=5 and a store whose writes take up to"):
        SessionManager(SlowStore(), generate_key(), deadline=5)
    assert SessionManager(SlowStore(), generate_key(), deadline=4.5).policy.deadline == 4.5


def test_the_largest_options_fit() -> None:
    """Whatever `timeout=`, `wait_timeout=` and `deadline=` accept, they fit together."""
    assert MAX_DEADLINE + longest_write(MAX_TIMEOUT, MAX_WAIT) <= TOMBSTONE_TTL
    store = RedisStore(
        "redis://h", timeout=MAX_TIMEOUT, wait_replicas=1, wait_timeout=MAX_WAIT, wait_for="all"
    )
    assert store.longest_write == longest_write(MAX_TIMEOUT, MAX_WAIT)
    SessionManager(store, generate_key(), deadline=MAX_DEADLINE)


@pytest.mark.parametrize("timeout", [MAX_TIMEOUT + 0.1, 10])
def test_longer_options_are_refused(timeout: float) -> None:
    """A time-out that could break the rule can't be written."""
    with pytest.raises(ConfigurationError, match="timeout"):
        RedisStore("redis://h", timeout=timeout)
    with pytest.raises(ConfigurationError, match="wait_timeout"):
        RedisStore("redis://h", wait_replicas=1, wait_timeout=timeout)
    with pytest.raises(ConfigurationError, match="deadline"):
        SessionManager(MemoryStore(), generate_key(), deadline=MAX_DEADLINE + timeout)


def test_a_store_without_replicas_waits_for_none() -> None:
    """`wait_timeout` counts only if writes wait for replicas."""
    store = RedisStore("redis://h", timeout=2, wait_timeout=MAX_WAIT)
    assert store.longest_write == longest_write(2, 0)
