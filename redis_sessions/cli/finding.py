"""What `redis-sessions check` says: one line of judgement, and those that say the same as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

__all__ = ["Finding", "Level", "merged", "unknown"]


class Level(IntEnum):
    """How bad it is; the exit status, too, but for `UNKNOWN`, which is no fault."""

    UNKNOWN = -1
    OK = 0
    WARN = 1
    FAIL = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True)
class Finding:
    """One line. `server` is "" where it is about all of them; `details` are for programs."""

    check: str
    level: Level
    text: str
    advice: str = ""
    server: str = ""
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Those that say the same of several servers as one."""
    groups: dict[tuple[Any, ...], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.check, one.level, one.text, one.advice), []).append(one)
    return [replace(same[0], server=", ".join(f.server for f in same)) for same in groups.values()]


def unknown(check: str, what: str) -> Finding:
    """What the user has no right to ask, which is no fault."""
    return Finding(check, Level.UNKNOWN, f"the user may not ask ({what})")
