"""The command `stats`: how many sessions there are, how large, how long they live, and where."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

from redis_sessions.cli.output import printable, tell, write_json
from redis_sessions.cli.parser import Commands, positive
from redis_sessions.cli.records import each_session
from redis_sessions.cli.setting import add_json, add_store, store_of
from redis_sessions.connect.conversation import Conversation
from redis_sessions.lifecycle.enumeration import StoredSession
from redis_sessions.stores.inspection import parsed
from redis_sessions.stores.redis import RedisStore, servers_of
from redis_sessions.stores.scanning import indexes

__all__ = ["add"]

_MOST: Final = 100_000
_INDEXES: Final = 1000
_HOUR: Final = 3600
_TIMES: Final = (
    ("1 hour", _HOUR),
    ("1 day", 24 * _HOUR),
    ("7 days", 7 * 24 * _HOUR),
    ("30 days", 30 * 24 * _HOUR),
)


def add(commands: Commands) -> None:
    """Add the command."""
    stats = commands.add(
        "stats",
        _stats,
        "Tell how many sessions there are, how large they are, and how long they live.",
        f"""
        It also tells how many sessions users have, and of each primary the
        memory, whether it evicts, and how many clients it has.

        It looks at {_MOST:,} sessions at most, and at the indexes of {_INDEXES:,} users,
        a few hundred keys at a time, so that nobody has to wait. It needs no
        secret key, and the rights of `redis-sessions acl --role admin`.

            redis-sessions stats
            redis-sessions stats --most 1000000 --json

        Exit status: 0; 1 if a server may evict sessions when memory is short,
        or has done so; 2 if the store can't be read.
        """,
    )
    add_store(stats, argument=True)
    stats.add_argument(
        "--most",
        type=positive,
        default=_MOST,
        metavar="N",
        help=f"look at so many sessions; default: {_MOST:,}",
    )
    add_json(stats)


def _stats(args: Namespace) -> int:
    found = asyncio.run(_gather(args))
    if args.json:
        write_json(found)
    else:
        for line in _lines(found):
            tell(line)
    return int(any(server["evicts"] or server["evicted_keys"] for server in found["servers"]))


# -- what is gathered


async def _gather(args: Namespace) -> dict[str, Any]:
    keys, ends, sizes = Counter[str](), Counter[str](), list[int]()
    complete = True
    async with store_of(args) as store:
        async with aclosing(each_session(store)) as pages:
            async for page in pages:
                now = store.server_clock.now()
                keys.update(each.key_id for each in page)
                ends.update(_ends(each, now) for each in page)
                sizes += [each.size for each in page]
                if len(sizes) >= args.most:
                    complete = False
                    break
        return {
            "sessions": len(sizes),
            "complete": complete,
            "by_key": dict(keys.most_common()),
            "ends_within": {name: ends[name] for name in (*dict(_TIMES), "later", "never")},
            "bytes": _distribution(sizes) | {"together": sum(sizes)},
            "users": await _users(store, args.most),
            "servers": await _servers(store),
        }


def _ends(each: StoredSession, now: float) -> str:
    if each.idle_expires_at is None:
        return "never"
    left = each.idle_expires_at.timestamp() - now
    return next((name for name, seconds in _TIMES if left <= seconds), "later")


def _distribution(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values) or [0]
    last = len(ordered) - 1
    return {"median": ordered[last // 2], "p99": ordered[last * 99 // 100], "most": ordered[last]}


async def _users(store: RedisStore, most: int) -> dict[str, Any]:
    """Of the indexes: how many there are, and how many sessions some of them have."""
    number, looked_at = 0, list[str]()
    async with aclosing(indexes(servers_of(store), store.prefix, store.timeout)) as pages:
        async for page in pages:
            looked_at += page[: _INDEXES - len(looked_at)]
            number += len(page)
            if number >= most:
                break
    entries = [await store.entries(key) for key in looked_at]
    sizes = [len(page) for _, page in entries]
    return {"indexes": number, "looked_at": len(sizes), "sessions": _distribution(sizes)}


async def _servers(store: RedisStore) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    async with aclosing(servers_of(store).primaries()) as primaries:
        async for connector, _ in primaries:
            async with Conversation(connector, store.timeout) as server:
                (reply,) = await server.ask(("INFO", "all"))
            if isinstance(reply, bytes):  # else the user may not ask
                found[connector.where] = _server(connector.where, parsed(reply))
    return list(found.values())


def _server(where: str, said: Mapping[str, str]) -> dict[str, Any]:
    limit, policy = int(said.get("maxmemory", 0)), said.get("maxmemory_policy", "")
    name = "Valkey" if "valkey_version" in said else "Redis"
    return {
        "server": where,
        "version": f"{name} {said.get('valkey_version') or said.get('redis_version', '')}",
        "used_memory": int(said.get("used_memory", 0)),
        "maxmemory": limit,
        "maxmemory_policy": policy,
        "evicts": limit > 0 and policy != "noeviction",
        "evicted_keys": int(said.get("evicted_keys", 0)),
        "clients": int(said.get("connected_clients", 0)),
        "replicas": int(said.get("connected_slaves", 0)),
    }


# -- how it is shown


def _lines(found: Mapping[str, Any]) -> list[str]:
    sizes, users = found["bytes"], found["users"]
    more = "" if found["complete"] else " looked at; there are more (--most)"
    per_user = users["sessions"]
    about = f"{'size':14}half have up to {sizes['median']} bytes, 99 of 100 up to {sizes['p99']}, "
    about += f"the largest {sizes['most']}; together {_size(sizes['together'])}"
    of_users = (
        f"{'users':14}{users['indexes']} with an index; of {users['looked_at']} half have up "
    )
    of_users += f"to {per_user['median']} sessions, 99 of 100 up to {per_user['p99']}, "
    of_users += f"one {per_user['most']}"
    lines = [
        f"sessions      {found['sessions']}{more}",
        *(f"{'':14}{number} sealed with the key {id}" for id, number in found["by_key"].items()),
        f"end within    {', '.join(f'{k}: {n}' for k, n in found['ends_within'].items())}",
        about,
        of_users,
    ]
    for server in found["servers"]:
        limit = f" of {_size(server['maxmemory'])}" if server["maxmemory"] else ", no limit"
        lines.append(
            f"server        {server['server']}: {printable(server['version'])}, memory "
            f"{_size(server['used_memory'])}{limit} ({printable(server['maxmemory_policy'])}), "
            f"{server['evicted_keys']} keys evicted, {server['clients']} clients, "
            f"{server['replicas']} replicas"
        )
        if server["evicts"] or server["evicted_keys"]:
            lines.append(f"{'':14}maxmemory-policy noeviction, or users are signed out")
    if not found["servers"]:
        lines.append("server        the user may not ask (INFO)")
    return lines


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
