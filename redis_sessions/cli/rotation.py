"""The command `keys`: which secret keys are in use, and what the next step of a replacement is."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from textwrap import fill
from typing import Any

from redis_sessions.cli.output import span, table, tell, write_json
from redis_sessions.cli.parser import Commands
from redis_sessions.cli.records import each_session
from redis_sessions.cli.setting import KEY, add_json, add_keys, add_store, keyring_of, store_of
from redis_sessions.lifecycle.key_notes import RECENT
from redis_sessions.session.keyring import Keyring

__all__ = ["Use", "add", "advice_for", "uses_of"]

_STEPS = """
A key is replaced in three deployments, and nobody is signed out:

  1. secret_key=[old, new]   every process can open what the new key will seal
  2. secret_key=[new, old]   new records are sealed with the new key
  3. secret_key=new          as soon as no session is sealed with the old key
"""


def add(commands: Commands) -> None:
    """Add the command."""
    keys = commands.add(
        "keys",
        _keys,
        "Tell which secret keys are in use, and what to do next to replace one.",
        f"""
        It counts the sessions by the key that they are sealed with, and reads
        the notes in which each process says every five minutes with which key
        it seals. Keys are shown by their public ids.
        {_STEPS.replace(chr(10), chr(10) + " " * 8)}
        It tells more if it knows the keys, in the order in which the application
        will have them: then it says at which step you are, and which keys are
        missing.

            SESSION_SECRET_KEY=$NEW SESSION_RETIRED_KEYS=$OLD redis-sessions keys

        A key that leaked is dropped in one deployment, and everybody is signed
        out: docs/keys.md says how.

        Exit status: 0; 1 if sessions or processes use a key that isn't among
        those given; 2 if the store can't be read.
        """,
    )
    add_store(keys, argument=True)
    add_keys(keys)
    add_json(keys)


@dataclass(frozen=True)
class Use:
    """What is done with one key."""

    id: str
    sessions: int
    noted: float | None
    """Seconds since a process noted that it seals with it; None: not in the last day."""
    place: str
    """first, older, unknown; or nothing if no keys were given."""

    @property
    def recent(self) -> bool:
        return self.noted is not None and self.noted < RECENT

    @property
    def in_use(self) -> bool:
        return self.recent or self.sessions > 0


def _keys(args: Namespace) -> int:
    keyring = keyring_of(args)
    counts, notes = asyncio.run(_found(args))
    uses = uses_of(keyring, counts, notes)
    advice = advice_for(uses)
    if args.json:
        write_json({"keys": [_plain(use) for use in uses], "advice": advice})
    else:
        table(
            ["key", "sessions", "a process seals with it", *["given as"] * bool(keyring)],
            [_row(use, bool(keyring)) for use in uses],
        )
        tell("")
        for line in advice:
            tell(fill(line, 88))
        if keyring is None:
            tell(_STEPS.rstrip())
    return int(any(use.place == "unknown" and use.in_use for use in uses))


async def _found(args: Namespace) -> tuple[Counter[str], Mapping[str, float]]:
    """How many sessions are sealed with each key, and how long ago each was noted."""
    counts = Counter[str]()
    async with store_of(args) as store:
        notes = await store.key_ids()
        async with aclosing(each_session(store)) as pages:
            async for page in pages:
                counts.update(each.key_id for each in page)
    return counts, notes


def uses_of(keyring: Keyring | None, counts: Counter[str], notes: Mapping[str, float]) -> list[Use]:
    """The keys given, in their order, and then the others that are in use.

    `counts`: the sessions that each key has sealed. `notes`: seconds since it was noted.
    """
    given = [] if keyring is None else [key.id.hex() for key in keyring.keys]
    places = dict(zip(given, ["first", *["older"] * len(given)], strict=False))
    others = sorted((counts.keys() | notes.keys()) - places.keys())
    return [
        Use(id, counts[id], notes.get(id), places.get(id, "unknown" if given else ""))
        for id in [*given, *others]
    ]


def _row(use: Use, placed: bool) -> list[object]:
    noted = "not in the last day" if use.noted is None else f"{span(use.noted)} ago"
    return [use.id, use.sessions, noted, *[use.place] * placed]


def _plain(use: Use) -> dict[str, Any]:
    return {**vars(use), "removable": use.place == "older" and not use.in_use}


def advice_for(uses: list[Use]) -> list[str]:
    """What to do next, in whole sentences."""
    if not uses:
        return ["No session is stored, and no process has noted a key."]
    if not uses[0].place:
        many = [use.id for use in uses if use.in_use]
        which = ", ".join(many) or "none"
        return [f"In use: {which}. Give the keys ({KEY}) to be told at which step you are."]
    said = [
        f"{use.id} is in use, and isn't among the keys given: these open none of its "
        f"{use.sessions} sessions. Give it, too, or find out who uses it."
        for use in uses
        if use.place == "unknown" and use.in_use
    ]
    first, *older = [use for use in uses if use.place != "unknown"]
    sealing = [use.id for use in older if use.recent]
    if not older:
        said.append(
            "To replace this key: make another one with `redis-sessions key`, and deploy "
            "secret_key=[old, new]."
        )
    elif sealing and not first.recent:
        said.append(
            f"Step 1: processes still seal with {', '.join(sealing)}. When every process has both "
            f"keys, deploy secret_key=[new, old] with {first.id} as the first."
        )
    elif sealing:
        said.append(
            f"Step 2 is under way: some processes seal with {first.id}, and some did with "
            f"{', '.join(sealing)} in the last {span(RECENT)}. Wait until all have ended."
        )
    for use in older:
        if not use.in_use:
            said.append(f"Step 3: {use.id} isn't in use any more. You may remove it.")
        elif not use.recent:
            said.append(
                f"Keep {use.id}: {use.sessions} sessions are sealed with it. They are sealed anew "
                "when they are used, or end by themselves."
            )
    return said
