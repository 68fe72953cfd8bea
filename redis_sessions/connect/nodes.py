"""The nodes of a Cluster: whether each of them serves, and which keys it has."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from itertools import product
from secrets import token_hex
from typing import Final

from redis.crc import key_slot

from redis_sessions.connect.health import Health
from redis_sessions.errors import StoreError
from redis_sessions.events import logger

__all__ = ["PATIENCE", "SLOTS", "NodeHealth", "slot_of", "tags"]

SLOTS: Final = 16_384
PATIENCE: Final = 0.25
"""The part of the time-out for which it is believed to pass that a slot isn't served."""
_DOWN_FOR: Final = 5.0
"""Seconds after which a CLUSTERDOWN that nobody has seen again is forgotten."""
# Sixteen characters that differ in the same four bits. CRC16 is linear, so four of them give all of
# its values: there is a key even for a node that has a single slot.
_SIXTEEN: Final = "@ABCDEFGHIJKLMNO"


class NodeHealth(Health):
    """Whether one node of a Cluster is away, or says that the Cluster is down."""

    __slots__ = ("_down", "_logged_down", "left", "where")

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.left = False
        """Whether other nodes have its slots. Then its trouble isn't logged."""
        # By queue, since reads may succeed where writes don't: since when the node has answered
        # nothing but CLUSTERDOWN, and when it did so last.
        self._down: dict[str, tuple[float, float]] = {}
        self._logged_down = False

    def log_trouble(self, trouble: StoreError | None) -> None:
        if not self.left and self.away is None:
            super().log_trouble(trouble)  # it is there, and refuses
        elif not self.left:
            logger.error(
                "sessions: %s; requests for its slots get 503 as long as no node serves them",
                trouble,
            )

    def log_recovery(self) -> None:
        if not self.left:
            logger.warning("sessions: %s serves again", self.where)

    def note_down(self, queue: str, error: StoreError, now: float, patience: float) -> bool:
        """Note that it answered CLUSTERDOWN to an item of this queue.

        True if it has answered nothing else to this queue for `patience` seconds.
        """
        since, last = self._down.get(queue, (now, now))
        if now - last > _DOWN_FOR:
            since = now
        self._down[queue] = since, now
        lasting = now - since >= patience
        if lasting and not self._logged_down:
            self._logged_down = True
            logger.error("sessions: %s; requests that ask it get 503", error)
        return lasting

    def note_answer(self, queue: str) -> None:
        """Note that it has answered an item of this queue."""
        if self._down:
            self._down.pop(queue, None)
            if self._logged_down and not self._down:
                self._logged_down = False
                logger.warning("sessions: %s serves again", self.where)

    def note_map(self, known: bool) -> None:
        """Note whether the slot map has this node."""
        if not known and not self.left and self.trouble is not None:
            logger.warning("sessions: other nodes serve the slots of %s", self.where)
        if known and self.left:
            self.trouble = self.away = None  # that was before it left
        self.left = not known


def tags(prefix: str, owners: Sequence[Hashable | None]) -> list[str]:
    """One hash tag for each owner of slots. A key of the prefix and an owner's tag is the owner's.

    `owners` has the owner of each slot. A prefix with a hash tag of its own puts all keys into one
    slot: then one tag is returned.
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
    """The slot of all keys with this prefix, if it has a hash tag; else None."""
    tag = re.match(r"[^{]*\{([^}]+)\}", prefix)
    return key_slot(tag[1].encode()) if tag else None
