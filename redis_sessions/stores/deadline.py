"""How long the writes of one response may take: less than a tombstone lives.

A sign-out leaves a tombstone, at which a late write of a crossing request finds that the session is
gone. Such a write must not arrive after the tombstone has expired. So, in seconds:

    deadline + longest_write <= TOMBSTONE_TTL

- `deadline` is the manager's: no write of a response begins later than this after the first one.
- `longest_write` is the store's: each write ends within this time, answered or not.
- `TOMBSTONE_TTL` is how long a tombstone lives.

`check_deadline` holds it where a manager gets its store. With the largest values that the options
accept, the sum is 25 of 30 seconds.
"""

from __future__ import annotations

from typing import Final, Protocol, runtime_checkable

from redis_sessions.errors import ConfigurationError, check_bound
from redis_sessions.session.record import TOMBSTONE_TTL

__all__ = ["MAX_DEADLINE", "BoundedWrites", "check_deadline", "longest_write"]

MAX_DEADLINE: Final = 10.0
"""Seconds; the most that `deadline=` accepts."""


@runtime_checkable
class BoundedWrites(Protocol):
    """What a store adds whose writes take a known time at most."""

    @property
    def longest_write(self) -> float:
        """Seconds after which a write that was begun is over, whatever became of it."""
        ...


def longest_write(timeout: float, wait_timeout: float) -> float:
    """The `longest_write` of a store in Redis, from its two time-outs.

    Three such times are the most, each with what `WAIT` adds to it:

    1. A node of a Cluster may have been asked before, for one such time. After it no other node is
       asked (`Cluster.run`).
    2. The write leaves within one such time, for the first time or once more (`ItemQueue`).
    3. It is answered within one such time, or fails with its link.

    Two things aren't counted. The ends and rotations that a server is sent once more after a
    failover (`repeats`) may be sent at any time. The start of an embedded server may take longer.
    """
    return 3 * (timeout + wait_timeout)


def check_deadline(deadline: float, store: object) -> None:
    """Refuse a deadline after which a write to this store could outlive a tombstone."""
    check_bound(deadline, "deadline", MAX_DEADLINE)
    longest = store.longest_write if isinstance(store, BoundedWrites) else 0
    if deadline + longest > TOMBSTONE_TTL:
        raise ConfigurationError(
            f"deadline={deadline:g} and a store whose writes take up to {longest:g} s: together "
            f"they must be at most {TOMBSTONE_TTL} s, which a tombstone lives; lower deadline=, or "
            "the store's timeout"
        )
