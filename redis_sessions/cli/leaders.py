"""The command `leader`: which process leads what."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from datetime import UTC, datetime
from typing import Any

from redis_sessions.cli.output import complain, shown, span, table, write_json
from redis_sessions.cli.parser import Commands
from redis_sessions.cli.setting import add_json, add_store, store_of
from redis_sessions.stores.leases import Leadership, leases_of

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add the command."""
    leader = commands.add(
        "leader",
        _leader,
        "Tell which process leads what, since when, and how long its lease lasts.",
        """
        It needs no secret key. Without NAME it tells all that anybody has led in
        the last 400 days. A job of @leader.every() has the name of its function.

            redis-sessions leader
            redis-sessions leader nightly

        The token is the one that fences writes: each leader's is greater than
        that of the leader before.

        Exit status: 0; 1 if nobody leads NAME now; 2 if the store can't be read.
        """,
    )
    leader.add_argument("name", nargs="?", metavar="NAME", help="what is led")
    add_store(leader, argument=False)
    add_json(leader)


def _leader(args: Namespace) -> int:
    found, now = asyncio.run(_found(args))
    if args.json:
        write_json({"leaders": [_plain(each, now) for each in found]})
    elif found:
        head = ["name", "leader", "since", "lease ends", "last run", "token"]
        table(head, [_row(each, now) for each in found])
    else:
        complain("nobody has led " + ("anything" if args.name is None else repr(args.name)))
    return int(args.name is not None and not any(each.left for each in found))


async def _found(args: Namespace) -> tuple[list[Leadership], float]:
    """Who leads, or led last, and the time of the store."""
    async with store_of(args) as store:
        leases = leases_of(store)
        names = await leases.names() if args.name is None else [args.name]
        found = [each for name in names if (each := await leases.look(name)) is not None]
        return found, store.server_clock.now()


def _row(each: Leadership, now: float) -> list[object]:
    ends = f"in {span(each.left)}" if each.left else "-"
    leader = each.about if each.left else f"- (last: {each.about})"
    ran = "-" if each.ran is None else f"{span(each.ran)} ago"
    return [each.name, leader, shown(_at(now, each.since)), ends, ran, each.token]


def _plain(each: Leadership, now: float) -> dict[str, Any]:
    return {
        "name": each.name,
        "leads": each.left > 0,
        "process": each.about,
        "since": _at(now, each.since),
        "lease_ends_in": each.left,
        "last_run": None if each.ran is None else _at(now, each.ran),
        "token": each.token,
    }


def _at(now: float, ago: float) -> datetime:
    return datetime.fromtimestamp(now - ago, UTC)
