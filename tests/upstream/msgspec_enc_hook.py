"""msgspec crashes where a list or dict changes while an `enc_hook` runs in the middle of it.

    python tests/upstream/msgspec_enc_hook.py list      # or dict, hook, tzinfo

`msgspec_enc_hook.txt` is the report. This file needs nothing but msgspec, and no timing: the hook
waits until the other thread has made its change.
"""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec


class Unknown:
    """A type that msgspec leaves to the hook."""


def change_meanwhile(
    kind: str, encode: Callable[[dict[str, Any], Callable[[Any], Any]], bytes]
) -> bytes:
    """What `encode(data, enc_hook)` makes of data that change while the hook runs."""
    data: dict[str, Any] = {"a": [Unknown(), *([n] for n in range(5000))], "b": [1]}
    begins, changed = threading.Event(), threading.Event()

    def change() -> None:
        begins.wait()
        if kind == "list":
            data["a"].clear()
        data.clear()
        _ = [bytes(50) for _ in range(100_000)]  # what was freed is used for something else
        changed.set()

    def hook(value: Any) -> str:
        if kind == "hook":  # no thread is needed
            data["a"].clear()
        else:
            begins.set()
            changed.wait()
        return "encoded"

    if kind != "hook":
        threading.Thread(target=change, daemon=True).start()
    return encode(data, hook)


class Zone(dt.tzinfo):
    """A time zone that is written in Python."""

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def utcoffset(self, moment: dt.datetime | None) -> dt.timedelta:
        """What msgspec asks for in the middle of the list."""
        self.data.clear()
        return dt.timedelta(0)

    def dst(self, moment: dt.datetime | None) -> None:
        """None."""

    def tzname(self, moment: dt.datetime | None) -> None:
        """Nothing either."""


def by_msgspec(data: Any, hook: Callable[[Any], Any] | None) -> bytes:
    """By msgspec alone."""
    return msgspec.msgpack.Encoder(enc_hook=hook).encode(data)


if __name__ == "__main__":
    if sys.argv[1] == "tzinfo":
        moments: list[Any] = []
        moments += [dt.datetime(2020, 1, 1, tzinfo=Zone(moments)), *([n] for n in range(5000))]
        print(by_msgspec(moments, None)[:20])
    else:
        print(change_meanwhile(sys.argv[1], by_msgspec)[:20])
