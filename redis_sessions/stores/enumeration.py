"""What a store adds that can go through all of its records, without opening any."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from redis_sessions.session.record import HEADER_SIZE

__all__ = ["Enumerable", "Found"]


class Found(NamedTuple):
    """What is stored under one id, as far as the store can tell."""

    id: str
    header: bytes
    """The first 33 bytes."""
    size: int
    """The number of bytes."""
    left: int | None
    """Milliseconds until it expires. None: it has no time to live."""

    @property
    def is_record(self) -> bool:
        """Whether it is a record, and no tombstone."""
        return self.size > HEADER_SIZE


@runtime_checkable
class Enumerable(Protocol):
    """What a store adds that can go through all that it has under ids.

    `redis_sessions.testing.EnumerationConformance` tests an implementation.
    """

    def scan(self) -> AsyncGenerator[Sequence[Found]]:
        """All records and tombstones, in pages of some hundred. No page is empty.

        What is stored during all of this is found at least once, and may be found twice. What
        comes or goes meanwhile may be found. Each step is a bounded amount of work for the server,
        so that others needn't wait. Raises `StoreUnavailableError`; and `ConfigurationError` if
        the store's user may not do this.
        """
        ...
