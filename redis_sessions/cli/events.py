"""The command `events`: what happens to sessions, as it happens, as far as Redis tells it."""

from __future__ import annotations

import asyncio
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from redis_sessions.cli.notices import Item, notices_of
from redis_sessions.cli.output import shown, span, tell, write_json
from redis_sessions.cli.parser import Commands, positive
from redis_sessions.cli.records import each_session
from redis_sessions.cli.setting import add_json, add_store, store_of
from redis_sessions.errors import StoreError
from redis_sessions.session.record import key_id, rotated_at
from redis_sessions.session.token import is_id
from redis_sessions.stores.enumeration import Found
from redis_sessions.stores.inspection import look
from redis_sessions.stores.redis import RedisStore, servers_of

__all__ = ["Sight", "add"]


def add(commands: Commands) -> None:
    """Add the command."""
    events = commands.add(
        "events",
        _events,
        "Show what happens to sessions, as it happens.",
        """
        Redis tells which keys change, and the header of a record says the rest:

            created  a session that wasn't there before
            changed  its data changed, or its time was renewed: that looks alike
            rotated  it has a new token, and the same id
            ended    signed out, revoked, or replaced at a sign-in
            gone     its time was over, or its key was deleted or evicted

        What Redis can't know isn't told: whose session it is, why it ended, what
        was rejected, and who read. Two changes within a moment may show as one.
        The application's own events have all that: docs/events.md.

        At first it looks for the sessions that there are, to know which ones are
        new. With --new-only it begins at once, and calls a session that it sees
        first "stored". It needs no secret key, and the rights of `redis-sessions
        acl --role admin`. It costs the server little: no key is remembered there
        for it. In a Cluster it also watches primaries that come later. It ends
        with Ctrl-C.

            redis-sessions events
            redis-sessions events --json --seconds 60 | jq -r .event | sort | uniq -c

        Exit status: 0 after --seconds or --most; 130 after Ctrl-C; 2 if the
        connection is lost, since nobody knows then what was missed.
        """,
    )
    add_store(events, argument=True)
    events.add_argument("--new-only", action="store_true", help="don't look for what is there")
    events.add_argument("--seconds", type=positive, metavar="N", help="end after so long")
    events.add_argument("--most", type=positive, metavar="N", help="end after so many events")
    add_json(events, "one object in each line")


_OVER: Final = -1
_AT_ONCE: Final = 256


@dataclass
class Sight:
    """What has been seen of the sessions so far, and what a new look at one of them means."""

    complete: bool = True
    """Whether all sessions that were there at the start are known."""
    known: dict[str, int] = field(default_factory=dict[str, int])
    """By id: when its token was rotated; or `_OVER`, of a tombstone that was seen."""

    def note(self, id: str, found: Found | None, *, named: bool = True) -> str | None:
        """What happened to this session; None if nothing did that hasn't been told.

        `named`: a server has told that it changed. Of others that doesn't show.
        """
        before = self.known.get(id)
        if found is None:
            self.known.pop(id, None)
            unseen = before is None and self.complete
            return None if unseen or before == _OVER else "gone"
        if not found.is_record:
            self.known[id] = _OVER
            return None if before == _OVER else "ended"
        self.known[id] = rotated = rotated_at(found.header)
        if before is None:
            return "created" if self.complete else "stored"
        if before == _OVER:
            return "created"
        if rotated != before:
            return "rotated"
        return "changed" if named else None


def _events(args: Namespace) -> int:
    asyncio.run(_show_all(args))
    return 0


async def _show_all(args: Namespace) -> None:
    left = args.most
    async with store_of(args) as store, aclosing(_happening(store, args)) as happening:
        try:
            async with asyncio.timeout(args.seconds):
                async for name, id, found in happening:
                    _show(args, store, name, id, found)
                    left = None if left is None else left - 1
                    if left == 0:
                        break
        except TimeoutError:
            return


async def _happening(
    store: RedisStore, args: Namespace
) -> AsyncGenerator[tuple[str, str, Found | None]]:
    sight = Sight(complete=not args.new_only)
    async with notices_of(store) as queue:
        if sight.complete:
            sight.known = await _present(store)
        print("watching", file=sys.stderr, flush=True)
        while True:
            items = [await queue.get(), *_waiting(queue)]
            named = _ids(store.prefix, items)
            others = list[str]()
            if joined := [item for item in items if isinstance(item, str)]:
                print(f"watching {', '.join(joined)}, too", file=sys.stderr, flush=True)
            if joined or None in items:
                present = await _present(store) if sight.complete else {}
                others = [
                    id
                    for id in {**present, **sight.known}
                    if id not in named and present.get(id) != sight.known.get(id)
                ]
            for ids, were_named in ((named, True), (others, False)):
                async for id, found in _looks(store, ids):
                    if (name := sight.note(id, found, named=were_named)) is not None:
                        yield name, id, found


async def _present(store: RedisStore) -> dict[str, int]:
    """The sessions that there are, as `Sight.known` has them."""
    found = dict[str, int]()
    async with aclosing(each_session(store)) as pages:
        async for page in pages:
            for each in page:
                found[each.id] = int(each.rotated_at.timestamp()) if each.rotated_at else 0
    return found


async def _looks(store: RedisStore, ids: list[str]) -> AsyncGenerator[tuple[str, Found | None]]:
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        looks = (look(servers_of(store), store.prefix, id) for id in some)
        for found in zip(some, await asyncio.gather(*looks), strict=True):
            yield found


def _waiting(queue: asyncio.Queue[Item]) -> list[Item]:
    """What else has come: on a busy site one look is enough for it."""
    return [queue.get_nowait() for _ in range(queue.qsize())]


def _ids(prefix: str, items: list[Item]) -> list[str]:
    """The ids of the sessions among these keys, each once."""
    found: dict[str, None] = {}
    for item in items:
        if isinstance(item, StoreError):
            raise item
        if item is not None and not isinstance(item, str):
            keys = (key.decode("latin-1").removeprefix(prefix) for key in item)
            found.update((key, None) for key in keys if is_id(key))
    return list(found)


def _show(args: Namespace, store: RedisStore, name: str, id: str, found: Found | None) -> None:
    at = datetime.fromtimestamp(store.server_clock.now(), UTC)
    alive = found if found is not None and found.is_record else None
    if args.json:
        more: dict[str, Any] = {}
        if alive is not None:
            left = None if alive.left is None else alive.left / 1000
            more = {"key_id": key_id(alive.header), "size": alive.size, "expires_in": left}
        write_json({"at": at, "event": name, "id": id, **more})
        return
    line = f"{shown(at)}  {name:7}  {id}"
    if alive is not None:
        ends = "never" if alive.left is None else f"in {span(alive.left / 1000)}"
        line += f"  key {key_id(alive.header).hex()}  {alive.size} bytes  expires {ends}"
    tell(line)
