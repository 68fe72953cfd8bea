"""The commands about all sessions, whosever they are: `count`, `list` and `inspect`."""

from __future__ import annotations

import asyncio
import re
import sys
from argparse import ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, cast

from redis_sessions.cli.output import (
    as_json,
    complain,
    printable,
    progress,
    shown,
    span,
    tell,
    write_json,
)
from redis_sessions.cli.parser import Commands, positive, session_id
from redis_sessions.cli.setting import (
    add_json,
    add_keys,
    add_store,
    from_stdin,
    manager_of,
    store_of,
)
from redis_sessions.errors import ConfigurationError, StoreError
from redis_sessions.lifecycle.enumeration import StoredSession, told
from redis_sessions.lifecycle.manager import backend_of
from redis_sessions.session.record import Stored, layout
from redis_sessions.session.token import SessionToken
from redis_sessions.session.values import decode
from redis_sessions.stores.inspection import info, look
from redis_sessions.stores.redis import RedisStore, servers_of
from redis_sessions.stores.scanning import Place

__all__ = ["add", "each_session"]

_CURSOR: Final = re.compile(r"(.+)/([0-9]{1,20})")


def add(commands: Commands) -> None:
    """Add the commands of this module."""
    count = commands.add(
        "count",
        _count,
        "Count the sessions in a store, those of visitors who aren't signed in, too.",
        """
        It needs no secret key, and reads nobody's data. It looks at all keys of
        the database, a few hundred at a time, so that nobody has to wait. The
        user needs the rights of `redis-sessions acl --role admin`.

        It also tells with which secret keys they are sealed. `redis-sessions
        keys` says what that means for a key that you replace.

        Exit status: 0, or 2 if the store can't be read.
        """,
    )
    add_store(count, argument=True)
    add_json(count)

    listing = commands.add(
        "list",
        _list,
        "List the sessions in a store, in no order: ids and times, but not whose they are.",
        """
        For each session: its id; when it ends unless it is used; when its token
        was last replaced; the id of the secret key that it is sealed with; and
        its size. A few may come twice. It needs no secret key, and the rights of
        `redis-sessions acl --role admin`.

            redis-sessions list
            redis-sessions list --json | jq -r .id
            redis-sessions list --limit 1000

        With --limit it ends after the page in which it has so many (a page has
        up to some 250), and says on standard error how to go on:

            the next ones: --cursor localhost:6379/1792

        Such a cursor holds until that server is started again.

        Exit status: 0, or 2 if the store can't be read.
        """,
    )
    add_store(listing, argument=True)
    listing.add_argument("--limit", type=positive, metavar="N", help="end after so many")
    listing.add_argument("--cursor", type=_place, metavar="CURSOR", help="go on there")
    add_json(listing, "one object in each line")

    inspect = commands.add(
        "inspect",
        _inspect,
        "Show what Redis holds under one id; and with the token, what is in it.",
        """
        Without a token it shows the header of the record and its time to live,
        which is all that anybody sees who has Redis and not the token: not
        whose session it is, and nothing of its data. With the secret key and
        --principal it tells whether the session is this user's.

            redis-sessions inspect gAUGjsIkbIeJAxXoGZ8h
            redis-sessions inspect gAUGjsIkbIeJAxXoGZ8h --principal 42
            redis-sessions inspect gAUGjsIkbIeJAxXoGZ8h --token - < token

        With the token (the value of the cookie) and the secret key it opens the
        record, and shows its times, the digest of its owner, and its data. The
        token is read from standard input alone, since on a command line others
        could see it. Nothing is written, and the session isn't touched.

        Exit status: 0; 1 if there is no such session (it has ended, or never
        was), it isn't the user's, or the token doesn't open it; 2 if the store
        can't be read.
        """,
    )
    inspect.add_argument(
        "id", type=session_id, metavar="ID", help="the session's id: the first 20 characters"
    )
    add_store(inspect, argument=False)
    add_keys(inspect)
    inspect.add_argument("--principal", help="tell whether it is this user's")
    inspect.add_argument("--token", metavar="-", help="-: read the token from standard input")
    add_json(inspect)


def _place(text: str) -> Place:
    parts = _CURSOR.fullmatch(text)
    if parts is None:
        raise ArgumentTypeError("write what an earlier list --limit has said")
    return Place(parts[1], int(parts[2]))


# -- count, list


async def each_session(
    store: RedisStore, place: Place | None = None
) -> AsyncGenerator[list[StoredSession]]:
    """All sessions, in the pages in which they are found, with a bar that shows how far it is."""
    place = place or Place()
    with progress("keys looked at", await _keys(store)) as show:
        place.on_step = show
        async with aclosing(store.scan(place)) as pages:
            async for page in pages:
                now = store.server_clock.now()
                yield [told(found, now) for found in page if found.is_record]


async def _keys(store: RedisStore) -> int | None:
    """How many keys there are in all databases, if the user may ask."""
    try:
        answers = await info(servers_of(store), "keyspace")
    except StoreError:
        return None
    texts = [text for answer in answers for text in answer.values()]
    return sum(int(found[1]) for text in texts if (found := re.search(r"keys=(\d+)", text)))


def _count(args: Namespace) -> int:
    keys = asyncio.run(_by_key(args))
    if args.json:
        write_json({"sessions": keys.total(), "by_key": dict(keys.most_common())})
        return 0
    tell(f"{keys.total()} sessions")
    for key_id, number in keys.most_common():
        tell(f"{number:8} sealed with the key {key_id}")
    return 0


async def _by_key(args: Namespace) -> Counter[str]:
    found = Counter[str]()
    async with store_of(args) as store, aclosing(each_session(store)) as pages:
        async for page in pages:
            found.update(each.key_id for each in page)
    return found


def _list(args: Namespace) -> int:
    return asyncio.run(_print_all(args))


async def _print_all(args: Namespace) -> int:
    place, number = args.cursor or Place(), 0
    async with store_of(args) as store, aclosing(each_session(store, place)) as pages:
        async for page in pages:
            for each in page:
                write_json(asdict(each)) if args.json else print(_line(each))
            number += len(page)
            if args.limit is not None and number >= args.limit and place.cursor:
                print(f"the next ones: --cursor {place.server}/{place.cursor}", file=sys.stderr)
                break
    return 0


def _line(each: StoredSession) -> str:
    return (
        f"{each.id}  expires {shown(each.idle_expires_at)}  rotated {shown(each.rotated_at)}  "
        f"key {each.key_id}  {each.size} bytes"
    )


# -- inspect


def _inspect(args: Namespace) -> int:
    if args.token not in (None, "-"):
        raise ConfigurationError(
            "--token: write --token -, and give the token on standard input, since others see "
            "what is on a command line. Treat this one as stolen: end the session"
        )
    if args.token and args.key_file == "-":
        raise ConfigurationError("--token - and --key-file -: one of them, there is one input")
    token = from_stdin("the token").strip() if args.token else None
    facts, status = asyncio.run(_look(args, token))
    if args.json:
        write_json(facts)
        return status
    if not facts["stored"]:
        complain("there is no such session: it has ended, or never was")
    for name, value in facts.items():
        if name != "stored" and value is not None:
            tell(f"{name.replace('_', ' ') + ':':18}{_text(name, value)}")
    return status


def _text(name: str, value: Any) -> str:
    if isinstance(value, datetime):
        return shown(value)
    if name == "idle_timeout":
        return span(value)
    if isinstance(value, tuple):
        return ", ".join(cast("tuple[str, ...]", value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(value) if isinstance(value, str | int) else as_json(value)


async def _look(args: Namespace, token: str | None) -> tuple[dict[str, Any], int]:
    """What can be told, by name, and the exit status."""
    facts: dict[str, Any] = {"id": args.id, "stored": False}
    status = 0
    async with store_of(args) as store:
        found = await look(servers_of(store), store.prefix, args.id)
        if found is None or not found.is_record:
            facts["tombstone"], status = found is not None, 1
        else:
            each = told(found, store.server_clock.now())
            facts |= {"stored": True, **_header(each, found.header)}
    if args.principal is not None:
        async with manager_of(args) as manager:
            facts["theirs"] = theirs = args.id in {
                each.id for each in await manager.sessions_of(args.principal)
            }
        status = status or int(not theirs)
    if token is not None and facts["stored"]:
        opened = await _open(args, token)
        if isinstance(opened, str):
            complain(opened)
            return facts, 1
        facts |= opened
    return facts, status


def _header(each: StoredSession, header: bytes) -> dict[str, Any]:
    parts = layout(header)
    return {
        "format": parts.format,
        "key_id": each.key_id,
        "rotated_at": each.rotated_at,
        "nonce": parts.nonce.hex(),
        "size": each.size,
        "idle_expires_at": each.idle_expires_at,
    }


async def _open(args: Namespace, text: str) -> dict[str, Any] | str:
    """What is sealed in the record, or why the token doesn't open it."""
    token = SessionToken.parse(text)
    if token is None or token.id != args.id:
        return "this is no token, or that of another session"
    async with manager_of(args) as manager:
        sealed = await manager.store.load(token.id)
        opened = backend_of(manager).sealer.open(token, sealed or b"")
    if not isinstance(opened, Stored):
        return f"the token doesn't open it: {opened}"
    record = opened.record
    return {
        "created_at": _time(record.created_at),
        "authenticated_at": _time((record.authenticated_at or 0) / 1000),
        "methods": record.methods,
        "last_seen_at": _time(record.seen_at),
        "expires_at": _time(record.expires_at),
        "idle_timeout": record.idle,
        "persistent": record.persistent,
        "owner": record.owner and record.owner.hex(),
        "binding": record.binding and record.binding.hex(),
        "data": decode(opened.data),
    }


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None
