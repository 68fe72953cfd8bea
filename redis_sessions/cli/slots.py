"""Which slot of a Cluster a prefix leads to, if it leads to one alone."""

from __future__ import annotations

import re

from redis.crc import key_slot

__all__ = ["slot_of"]


def slot_of(prefix: str) -> int | None:
    """That of all keys with a prefix that has a hash tag; None without one."""
    tag = re.match(r"[^{]*\{([^}]+)\}", prefix)
    return key_slot(tag[1].encode()) if tag else None
