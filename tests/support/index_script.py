"""The index's script with something else in one of its places, for one test."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from hashlib import sha1
from unittest import mock

from redis_sessions.stores import redis as redis_store
from redis_sessions.stores.commands import script as script_of

__all__ = ["index_script", "marks_are"]


def marks_are(number: int) -> tuple[str, str]:
    """Have an index keep so many marks."""
    return "MARKS, WIDTH = 256,", f"MARKS, WIDTH = {number},"


@contextmanager
def index_script(replaced: Iterable[tuple[str, str]]) -> Generator[None]:
    """Let the Redis store run its index's script with these replacements."""
    script = script_of("index.lua")
    for old, new in replaced:
        if script.text.count(old.encode()) != 1:
            raise AssertionError(f"the index's script has {old!r} not once")
        script.text = script.text.replace(old.encode(), new.encode())
    script.sha = sha1(script.text, usedforsecurity=False).hexdigest()
    with mock.patch.object(redis_store, "INDEX", script):
        yield
