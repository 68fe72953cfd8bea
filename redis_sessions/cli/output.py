"""What is printed: plain text, or by rich (extra `cli`) on a terminal; and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from math import isfinite
from typing import Any, cast

__all__ = [
    "as_json",
    "complain",
    "confirm",
    "has_rich",
    "printable",
    "progress",
    "shown",
    "span",
    "table",
    "tell",
    "write_json",
]


def has_rich(stream: Any) -> bool:
    """Whether this stream is a terminal, and rich is installed."""
    return bool(stream.isatty()) and find_spec("rich") is not None


def complain(message: str) -> None:
    """Say on standard error why something can't be done. A server may have said it."""
    lines = "\n".join(map(printable, message.split("\n")))
    print(f"redis-sessions: {lines}", file=sys.stderr)


def tell(line: str = "") -> None:
    """A line on standard output, which appears at once, also in a pipe."""
    print(line, flush=True)


def write_json(value: object) -> None:
    """One line of JSON. Times are in ISO 8601, in UTC."""
    print(as_json(value), flush=True)


def as_json(value: object) -> str:
    """The line of `write_json`."""
    return json.dumps(_with_names(value), default=_plain)


def _with_names(value: Any) -> Any:
    """The same as JSON has it: the names of a session's data needn't be texts, for example."""
    if isinstance(value, dict):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(name): _with_names(part) for name, part in items}
    if isinstance(value, list | tuple):
        return [_with_names(part) for part in cast("Iterable[Any]", value)]
    if isinstance(value, float) and not isfinite(value):
        return str(value)  # JSON has no such number
    return value


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return shown(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def printable(text: object) -> str:
    """The text without what would control a terminal: a User-Agent comes from anybody."""
    other = "\N{REPLACEMENT CHARACTER}"
    return "".join(letter if letter.isprintable() else other for letter in str(text))


def shown(moment: datetime | None) -> str:
    """A time in UTC: `2026-05-17T09:30:00Z`."""
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def span(seconds: float) -> str:
    """A duration in its largest unit: `90 s`, `14 min`, `13 d`."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under their headings. Without a terminal it is plain text, for grep and awk."""
    texts = [[printable(cell) for cell in row] for row in rows]
    if has_rich(sys.stdout):
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*head, box=SIMPLE_HEAD, pad_edge=False)
        drawn.columns[0].no_wrap = True  # an id is copied from there
        for row in texts:
            drawn.add_row(*(Text(cell) for cell in row))
        Console().print(drawn)
        return
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    for row in [list(head), *texts]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


@contextmanager
def progress(what: str, total: int | None) -> Generator[Callable[[int], None]]:
    """A bar on standard error, if that is a terminal. Call what it gives with what is done."""
    if not sys.stderr.isatty():
        yield lambda _: None
    elif has_rich(sys.stderr):
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
    else:
        of = "" if total is None else f" of {total}"
        yield lambda done: print(f"\r{what}: {done}{of}", end="", file=sys.stderr, flush=True)
        print(f"\r{'':60}\r", end="", file=sys.stderr, flush=True)


def confirm(question: str) -> bool:
    """Ask, if there is somebody at a terminal. In a script the answer is yes."""
    if not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
