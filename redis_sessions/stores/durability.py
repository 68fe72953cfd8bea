"""Which writes wait for replicas (`WAIT`), and what happens if too few have one in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from redis_sessions.connect.resp import Command
from redis_sessions.errors import ConfigurationError, check_bound
from redis_sessions.events import logger
from redis_sessions.session.record import is_change
from redis_sessions.stores.commands import END, IndexCommand, Item, Write
from redis_sessions.stores.protocols import GONE, STORED, Written

__all__ = ["MAX_WAIT", "Durability", "OnTooFew", "WaitFor", "durability"]

WaitFor = Literal["lifecycle", "all"]
OnTooFew = Literal["error", "warn"]

MAX_WAIT: Final = 2.5
"""Seconds. `stores.deadline` says what depends on it."""


@dataclass
class Durability:
    """Writes wait for so many replicas, and for `timeout` seconds at most."""

    replicas: int
    timeout: float
    every: bool
    """Whether changes and touches wait as well."""
    strict: bool
    """Whether the answers say that too few replicas have it; else it is a warning in the log."""
    _short: bool = field(default=False, init=False)  # whether there were too few the last time

    @property
    def command(self) -> Command:
        """The command that follows the writes on their connection."""
        return "WAIT", self.replicas, max(1, int(self.timeout * 1000))

    def concerns(self, item: Item) -> bool:
        """Whether this item is a write that waits.

        A write of a record waits if it creates, rotates or ends a session.
        """
        if isinstance(item, str):
            return False
        if isinstance(item, IndexCommand):
            return item.weight == "lifecycle" or (self.every and item.weight == "touch")
        return self.every or not is_change(item.value, item.expected)

    def judge(self, items: Sequence[Item], answers: Sequence[Any], confirmed: int) -> list[Any]:
        """The answers. Each write that was made and waits has a `Written`, with its shortfall."""
        written = [
            self.concerns(item) and _has_written(item, answer)
            for item, answer in zip(items, answers, strict=True)
        ]
        if not any(written):
            return list(answers)  # the number of replicas concerns no write
        short = confirmed < self.replicas
        if not self.strict and short != self._short:
            if short:
                logger.warning("sessions: %s", self._message(confirmed))
            else:
                logger.warning("sessions: %d replicas confirm writes again", self.replicas)
        self._short = short
        shortfall = self._message(confirmed) if short and self.strict else None
        return [
            _written(item, answer, shortfall) if wrote else answer
            for item, wrote, answer in zip(items, written, answers, strict=True)
        ]

    def _message(self, confirmed: int) -> str:
        return (
            f"a write is stored on the primary, but within {self.timeout:g} s {confirmed} of "
            f"{self.replicas} replicas confirmed it; a failover may lose it"
        )


def durability(replicas: int, timeout: float, wait_for: str, on_too_few: str) -> Durability | None:
    """The options of a store, checked; None if nothing waits."""
    if type(replicas) is not int or replicas < 0:
        raise ConfigurationError(f"wait_replicas={replicas!r}: write how many, or 0")
    check_bound(timeout, "wait_timeout", MAX_WAIT)
    if wait_for not in ("lifecycle", "all"):
        raise ConfigurationError(f"wait_for={wait_for!r}: write 'lifecycle' or 'all'")
    if on_too_few not in ("error", "warn"):
        raise ConfigurationError(f"on_too_few={on_too_few!r}: write 'error' or 'warn'")
    if not replicas:
        return None
    return Durability(replicas, timeout, wait_for == "all", on_too_few == "error")


def _has_written(item: Item, answer: object) -> bool:
    if isinstance(answer, Exception):
        return False
    # An end that found nothing, or a tombstone, has written a tombstone or its TTL.
    ends = isinstance(item, Write) and item.expected == END
    return isinstance(item, IndexCommand) or answer is STORED or (ends and answer is GONE)


def _written(item: Item, answer: Any, shortfall: str | None) -> Written[Any]:
    return Written(answer if isinstance(item, IndexCommand) else answer.result, shortfall)
