"""A Cluster's nodes one by one: how each of them is, and which keys are its own."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from itertools import product
from secrets import token_hex
from typing import Final

from redis.crc import key_slot

from redis_sessions.errors import StoreError
from redis_sessions.events import logger
from redis_sessions.stores.coalescing import Health

__all__ = ["SLOTS", "NodeHealth", "slot_of", "tags"]

SLOTS: Final = 16_384
_LAPSE: Final = 5.0  # seconds
# Sixteen characters that differ in the same four bits: CRC16 is linear, so four of them make
# any of its values, and there is a key for a node that has a single slot.
_SIXTEEN: Final = "@ABCDEFGHIJKLMNO"


class NodeHealth(Health):
    """Of a Cluster's node, as `Health`. What its Cluster answers is its own affair."""

    __slots__ = ("_down", "_told_down", "left", "where")

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.left = False
        """Others have its slots, so that its trouble is nobody's."""
        # By kind of command, since reading may go on: since when it says nothing but CLUSTERDOWN,
        # and when it said so last.
        self._down: dict[str, tuple[float, float]] = {}
        self._told_down = False

    def begins(self, trouble: StoreError | None) -> None:
        if not self.left and self.away is None:
            super().begins(trouble)  # it is there, and refuses
        elif not self.left:
            logger.error(
                "sessions: %s; requests for its slots get 503 as long as no node serves them",
                trouble,
            )

    def ends(self) -> None:
        if not self.left:
            logger.warning("sessions: %s serves again", self.where)

    def is_down(self, kind: str, told: StoreError, now: float, patience: float) -> bool:
        """Note that it says CLUSTERDOWN; whether it has said nothing else for that long."""
        since, last = self._down.get(kind, (now, now))
        if now - last > _LAPSE:
            since = now  # nobody has asked for long
        self._down[kind] = since, now
        lasting = now - since >= patience
        if lasting and not self._told_down:
            self._told_down = True
            logger.error("sessions: %s; requests that ask it get 503", told)
        return lasting

    def serves(self, kind: str) -> None:
        """Note that it has answered a command of this kind."""
        if self._down:
            self._down.pop(kind, None)
            if self._told_down and not self._down:
                self._told_down = False
                logger.warning("sessions: %s serves again", self.where)

    def belongs(self, known: bool) -> None:
        """Note whether the map has it."""
        if not known and not self.left and self.trouble is not None:
            logger.warning("sessions: other nodes serve the slots of %s", self.where)
        if known and self.left:
            self.trouble = self.away = None  # what it was like is long ago
        self.left = not known


def tags(prefix: str, owners: Sequence[Hashable | None]) -> list[str]:
    """A hash tag for each owner of slots: keys that begin with the prefix, and have it, are its.

    One for all if the prefix has a hash tag of its own.
    """
    missing = set(owners) - {None}
    found: list[str] = []
    unguessable = token_hex(8)
    for four in product(_SIXTEEN, repeat=4):
        tag = f"{{{unguessable}{''.join(four)}}}"
        owner = owners[key_slot(f"{prefix}{tag}".encode())]
        if owner in missing:
            missing.discard(owner)
            found.append(tag)
        if not missing or slot_of(prefix) is not None:
            break
    return found


def slot_of(prefix: str) -> int | None:
    """That of all keys with a prefix that has a hash tag; None without one."""
    tag = re.match(r"[^{]*\{([^}]+)\}", prefix)
    return key_slot(tag[1].encode()) if tag else None
