"""The rules of Redis users: what each role may do, and no more.

One form for Redis 6.2 to 8 and for Valkey: commands one by one, one pattern of keys, and one of
channels. Selectors and `%R~` came with Redis 7, and no role here would be narrower for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from hashlib import sha256
from typing import Final

from redis_sessions.errors import ConfigurationError
from redis_sessions.stores.protocols import checked_prefix

__all__ = ["PLACEHOLDER", "Role", "acl_line", "password_rule", "rules", "sentinel_rules"]

PLACEHOLDER: Final = "#PASSWORD"  # which servers refuse, unlike >PASSWORD


class Role(StrEnum):
    """Who connects."""

    APP = "app"
    ADMIN = "admin"
    MONITOR = "monitor"


_CONNECT: Final = ("ping", "client|setname")
_TRACKING: Final = ("client|tracking", "role")
_SETINFO: Final = "client|setinfo"  # Redis 7.0 refuses a rule that names it
_END: Final = ("script|load", "evalsha", "getrange", "set", "pexpire")
_REVOKE: Final = ("time", "hget", "hmget", "hset", "hdel", "hscan", "hrandfield", "pttl")
_END_SCHEDULED: Final = ("zadd", "zrange", "zrem")

_COMMANDS: Final = {
    # In the order of docs/deployment.md: records, notices, the index, locks, the warning of
    # eviction, the schedule for `on_expired=`.
    Role.APP: (
        *(*_CONNECT, "select", "mget", *_END, *_TRACKING, *_REVOKE),
        *("hlen", "get", "del", "info", *_END_SCHEDULED, "zscore"),
    ),
    # HLEN is missing: so it can't enter a session into an index, and sign somebody in.
    Role.ADMIN: (
        *(*_CONNECT, "select", "mget", *_END, *_REVOKE),
        *("scan", "strlen", "info", "client|tracking", *_END_SCHEDULED),
    ),
    Role.MONITOR: (*_CONNECT, "select", "info", "dbsize"),
}
_CLUSTER: Final = {
    Role.APP: ("cluster|slots", "asking"),
    Role.ADMIN: ("cluster|slots", "asking", "get"),  # there is no MGET over several slots
    Role.MONITOR: ("cluster|slots", "cluster|info"),
}
_REPLICAS: Final = {Role.APP: ("wait",), Role.ADMIN: ("wait",), Role.MONITOR: ()}
_MESSAGES: Final = ("publish", "subscribe", "unsubscribe")
_SHARDED: Final = ("spublish", "ssubscribe", "sunsubscribe")  # Redis 6.2 refuses these, too
_SENTINEL: Final = ("sentinel|masters", "sentinel|slaves", "sentinel|sentinels")


def rules(
    role: Role,
    *,
    prefix: str,
    cluster: bool = False,
    replicas: bool = False,
    setinfo: bool = True,
    sharded: bool = True,
) -> list[str]:
    """What a user of this role may do on a server that holds sessions.

    `sharded`: whether the nodes of a Cluster have channels that belong to slots.
    """
    commands = [*_COMMANDS[role], *([_SETINFO] if setinfo else [])]
    if cluster:
        commands += _CLUSTER[role]
    if replicas:
        commands += _REPLICAS[role]
        if cluster and role is Role.APP:
            commands.append("readonly")
    keys = [] if role is Role.MONITOR else [key_pattern(prefix)]
    if role is Role.APP:
        commands += _SHARDED if cluster and sharded else _MESSAGES
        keys.append(channel_pattern(prefix))
    return ["resetchannels", "-@all", *keys, *_allowed(commands)]


def sentinel_rules(*, setinfo: bool = True) -> list[str]:
    """What whoever looks for the primary, or checks them, may do on the Sentinels."""
    commands = [*_CONNECT, *([_SETINFO] if setinfo else []), *_SENTINEL]
    return ["resetchannels", "-@all", *_allowed(commands)]


def key_pattern(prefix: str) -> str:
    """`~session:*`; what a pattern would read otherwise is escaped."""
    if " " in checked_prefix(prefix):
        raise ConfigurationError(f"prefix={prefix!r}: an ACL rule can't name a space")
    return f"~{_escaped(prefix)}*"


def channel_pattern(prefix: str) -> str:
    """`&session:msg:*`: the channels of messages."""
    return f"&{_escaped(prefix)}msg:*"


def _escaped(prefix: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", prefix)


def password_rule(password: str) -> str:
    """The rule that sets a password, by its SHA-256: it may be kept in a file, and be shown."""
    if not password:
        raise ConfigurationError("the password is empty")
    return "#" + sha256(password.encode()).hexdigest()


def acl_line(user: str, password: str, rules: Iterable[str], *, file: bool = False) -> str:
    """The command that makes the user, or the line of an ACL file."""
    if not re.fullmatch(r"[!-~]+", user):
        raise ConfigurationError(f"user={user!r}: write a name of printable ASCII without spaces")
    # SETUSER adds to what the user may already: so from the beginning.
    start = ["user", user] if file else ["ACL", "SETUSER", user, "reset"]
    parts = [*start, "on", password, *rules]
    # A line of an ACL file has no quotes; in a command they need some themselves.
    return " ".join(parts if file else map(_quoted, parts))


def _quoted(part: str) -> str:
    """As redis-cli reads it."""
    if not re.search("[\"']", part):
        return part
    return '"' + re.sub(r'(["\\])', r"\\\1", part) + '"'


def _allowed(commands: Iterable[str]) -> list[str]:
    return [f"+{command}" for command in dict.fromkeys(commands)]
