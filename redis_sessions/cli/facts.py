"""What `redis-sessions check` knows of a deployment, before anybody judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Facts", "Sentinels", "Server"]


@dataclass(frozen=True)
class Server:
    """What one server says. None: it didn't answer, or the user may not ask."""

    address: str
    place: str = ""
    """primary or replica, as others say."""
    error: str | None = None
    """Why it can't be reached; everything else is then None."""
    hello: Mapping[str, Any] | None = None
    """`server`, `version`, `mode` and `role`: anybody may ask."""
    info: Mapping[str, str] | None = None
    config: Mapping[str, str] | None = None
    """`protected-mode`, `save` and `appendfsync`."""
    anonymous: bool | None = None
    """Whether somebody without a password gets in,"""
    trespass: bool = True
    """and then may read, overwrite or delete what has the prefix."""
    clock: tuple[float, float] | None = None
    """Seconds that it is ahead of this machine, and by how many that may be wrong,"""
    asked_at: float = 0.0
    """when it was this time here."""
    pings: Sequence[float] = ()
    """Round trips, in seconds."""
    unread: bool = False
    """With `replicas=read`: whether the user lacks a right for it."""

    @property
    def role(self) -> str:
        said = (self.info or {}).get("role") or (self.hello or {}).get("role", "")
        return {"master": "primary", "slave": "replica"}.get(said, said or self.place)


@dataclass(frozen=True)
class Sentinels:
    """Of those in the URL: how many answer, and what one of them says of the primary."""

    asked: int
    answered: int
    others: int = 0
    quorum: int = 0
    replicas: int = 0
    """Of the primary, as far as they are seen."""
    lost: int = 0
    """Replicas that aren't."""
    away: Sequence[str] | None = None
    """Other Sentinels that don't answer it."""


@dataclass(frozen=True)
class Facts:
    """All that was gathered. `kind` is the URL's: server, sentinel, cluster or embedded."""

    kind: str
    tls: bool
    verified: bool = True
    """With TLS: whether certificate and host name are checked."""
    servers: Sequence[Server] = ()
    sentinels: Sentinels | None = None
    slots: int | None = None
    """In a Cluster: how many of 16384 some node serves."""
    shards: Mapping[str, int] = field(default_factory=dict[str, int])
    """In a Cluster: the primaries, and how many replicas the others are told of."""
    one_slot: bool = False
    """In a Cluster: whether the prefix has a hash tag, and so puts all keys into one slot."""
    rights: str | None = None
    """Why the dry run failed; None if it went well."""
    parts: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """What was tried beside sessions: why it doesn't work, or None if it does."""
    uses: Sequence[str] = ()
    """What the application uses, if the user says so; then it has to work."""
    unreachable: str | None = None
    """Why nothing could be asked at all."""
