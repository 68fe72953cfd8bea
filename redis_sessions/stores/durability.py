"""Which writes wait for replicas, and what becomes of one that too few replicas have in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from redis_sessions.errors import ConfigurationError, ReplicationError, check_bound
from redis_sessions.events import logger
from redis_sessions.stores.commands import (
    ABSENT,
    END,
    ROTATED_AT,
    VERSION,
    Command,
    Item,
    Question,
    Write,
)
from redis_sessions.stores.protocols import Commit

__all__ = ["Durability", "OnTooFew", "WaitFor", "durability"]

WaitFor = Literal["lifecycle", "all"]
OnTooFew = Literal["error", "warn"]

MAX_WAIT: Final = 2.5


@dataclass
class Durability:
    """`WAIT` for so many replicas, `timeout` seconds at most."""

    replicas: int
    timeout: float
    every: bool
    """Ordinary changes and touches wait, too."""
    strict: bool
    _short: bool = field(default=False, init=False)  # too few, the last time

    @property
    def command(self) -> Command:
        return "WAIT", self.replicas, max(1, int(self.timeout * 1000))

    def concerns(self, item: Item) -> bool:
        """Whether this write waits. What it is, its headers say."""
        if isinstance(item, str):
            return False
        if isinstance(item, Question):
            return item.weight == "lifecycle" or (self.every and item.weight == "touch")
        if self.every or item.expected in (ABSENT, END) or len(item.value) == VERSION:
            return True
        return item.value[ROTATED_AT] != item.expected[ROTATED_AT]

    def judge(self, items: Sequence[Item], answers: Sequence[Any], confirmed: int) -> list[Any]:
        """The answers, or `ReplicationError` for what was written to too few."""
        written = [
            self.concerns(item) and _has_written(item, answer)
            for item, answer in zip(items, answers, strict=True)
        ]
        if not any(written):
            return list(answers)  # then the number says nothing
        short = confirmed < self.replicas
        if not self.strict and short != self._short:
            if short:
                logger.warning("sessions: %s", self._told(confirmed))
            else:
                logger.warning("sessions: %d replicas confirm writes again", self.replicas)
        self._short = short
        if not short or not self.strict:
            return list(answers)
        return [
            ReplicationError(self._told(confirmed), result=answer) if wrote else answer
            for wrote, answer in zip(written, answers, strict=True)
        ]

    def _told(self, confirmed: int) -> str:
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
    # An end that found nothing, or a tombstone, has renewed or set one.
    ends = isinstance(item, Write) and item.expected == END
    return isinstance(item, Question) or answer is Commit.STORED or (ends and answer is Commit.GONE)
