"""The commands about one user: `sessions` and `revoke`."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentTypeError, Namespace
from typing import Any

from redis_sessions.cli.output import complain, confirm, shown, table, tell, write_json
from redis_sessions.cli.parser import Commands, session_id
from redis_sessions.cli.setting import add_json, add_keys, add_store, manager_of
from redis_sessions.lifecycle.revocation import SessionInfo

__all__ = ["add"]

_PRINCIPAL = "who: what the application signs in with, such as a user's id"


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    sessions = commands.add(
        "sessions",
        _sessions,
        "List where a user is signed in. The session that was seen last comes first.",
        """
        It needs the application's secret key, since without it nobody can tell
        whose a session is.

            export REDIS_SESSIONS_URL=redis://localhost:6379/0
            export SESSION_SECRET_KEY=...
            redis-sessions sessions 42

        "seen" is up to five minutes old. With the extra `devices` the browser
        and the system are named; without it the User-Agent is shown as it came,
        and so is what an unknown browser sends.

        Exit status: 0; 1 if the user has no session; 2 if the store can't be
        read, or if all sessions there are of another secret key.
        """,
    )
    _add_user(sessions)

    revoke = commands.add(
        "revoke",
        _revoke,
        "End sessions of a user: one, all, or all but one.",
        """
        A session that has ended is signed out at its next request, and its open
        sockets close at once. It needs the application's secret key.

            redis-sessions revoke 42 --id gAUGjsIkbIeJAxXoGZ8h    a lost phone
            redis-sessions revoke 42 --keep gAUGjsIkbIeJAxXoGZ8h  all but this one
            redis-sessions revoke 42 --all --yes                  a stolen account

        At a terminal --all asks first; --yes answers that. It also holds for
        sign-ins that are under way, so it is right even if nobody is listed.

        Exit status: 0 if what you asked for is done; 1 if no session with --id
        was this user's and alive, or if you answered no; 2 if it failed. Then
        call it again: half of it may be done.
        """,
    )
    _add_user(revoke)
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--id",
        type=session_id,
        action="append",
        dest="ids",
        metavar="ID",
        help="this session; may be repeated",
    )
    which.add_argument("--all", action="store_true", help="all sessions")
    which.add_argument("--keep", type=session_id, metavar="ID", help="all sessions but this one")
    revoke.add_argument("--yes", action="store_true", help="don't ask")
    revoke.add_argument(
        "--wait-replicas",
        type=_number,
        default=0,
        metavar="N",
        help="as the application's wait_replicas=: wait until so many replicas know",
    )


def _add_user(parser: Any) -> None:
    parser.add_argument("principal", metavar="PRINCIPAL", help=_PRINCIPAL)
    add_store(parser, argument=False)
    add_keys(parser)
    add_json(parser)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError("write a number")
    return int(text)


# -- sessions


def _sessions(args: Namespace) -> int:
    found = asyncio.run(_sessions_of(args))
    if args.json:
        write_json({"sessions": [_plain(each) for each in found]})
    elif found:
        table(
            ["id", "signed in", "seen", "expires", "by", "address", "browser"],
            [_row(each) for each in found],
        )
    else:
        complain("this user has no session")
    return 0 if found else 1


async def _sessions_of(args: Namespace) -> list[SessionInfo]:
    async with manager_of(args) as manager:
        return await manager.sessions_of(args.principal)


def _row(each: SessionInfo) -> list[str]:
    browser = " on ".join(filter(None, (each.browser, each.system))) or each.user_agent
    return [
        each.id,
        *map(shown, (each.authenticated_at, each.last_seen_at, each.expires_at)),
        ",".join(each.methods) or "-",
        each.address or "-",
        browser or "-",
    ]


def _plain(each: SessionInfo) -> dict[str, Any]:
    names = ("id", "authenticated_at", "last_seen_at", "expires_at", "created_at", "address")
    more = ("user_agent", "methods", "browser", "system")
    return {name: getattr(each, name) for name in (*names, *more)}


# -- revoke


def _revoke(args: Namespace) -> int:
    if args.all and not args.yes and not confirm(f"End all sessions of {args.principal!r}?"):
        complain("nothing was done")
        return 1
    ended, missed = asyncio.run(_end(args))
    if args.json:
        write_json({"ended": ended, "missed": missed})
    else:
        tell(f"{ended} session{'' if ended == 1 else 's'} ended")
        for id in missed:
            print(f"{id} is no session of this user, or has ended before", file=sys.stderr)
    return 1 if missed else 0


async def _end(args: Namespace) -> tuple[int, list[str]]:
    """How many sessions ended, and which ids were nothing to end."""
    async with manager_of(args, wait_replicas=args.wait_replicas) as manager:
        if args.ids is None:
            return await manager.revoke_all(args.principal, keep=args.keep), []
        missed = [id for id in args.ids if not await manager.revoke(id, args.principal)]
        return len(args.ids) - len(missed), missed
