"""Browsers under a deployment that breaks, and a record of what each of them was told.

A browser has a session that nobody else writes, one request at a time. What was answered with
less than 400 is acknowledged: it must be there afterwards. After a 503 nobody knows, and the
browser loads the page again until it is served.

Every other browser stays in its session, so that the audit finds every change that was lost; the
others sign in and out all the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from tests.chaos.site import Page, Reply, Worker

BROWSERS: Final = 64
PATIENCE: Final = 20.0
"""Seconds after which a request hangs: all deadlines of the library have passed twice."""
_AT_HOME: Final = 0.9
"""The share of a browser's requests that its own worker gets."""
_THINKS: Final = 0.02, 0.06  # seconds between an answer and the next request

_STAYS: Final = {"read": 50, "add": 50}
_MOVES: Final = {"read": 30, "add": 30, "rotate": 10, "sign-out": 12, "revoke": 6, "replay": 12}
_LIFECYCLE: Final = frozenset({"sign-in", "sign-out", "revoke"})

How = Literal["ended", "rotated", "found ended"]
"""Ended or rotated by an acknowledged request; or found ended after one that was answered 503."""


@dataclass(slots=True)
class Retired:
    """A cookie that must not open a session any more."""

    token: str
    number: int
    how: How


@dataclass(slots=True)
class Visit:
    """One session, as its browser knows it."""

    number: int
    token: str
    begun: set[int] = field(default_factory=set[int])
    """The changes that it asked for."""
    told: set[int] = field(default_factory=set[int])
    """Those that were acknowledged."""
    unsure: set[str] = field(default_factory=set[str])
    """What was answered 503 of that which ends or rotates it."""
    missed: dict[int, float] = field(default_factory=dict[int, float])
    """Acknowledged changes that some answer didn't show, and when that last was."""
    left: float = 0.0
    """When an answer said that it isn't there."""


@dataclass
class Record:
    """What happened, from the browsers' point of view. Times are `time.monotonic()`."""

    group_of: Callable[[str], str] = field(default=lambda _: "primary")
    """Which servers a cookie's session depends on."""
    answers: Counter[str] = field(default_factory=Counter[str])
    refused: Counter[str] = field(default_factory=Counter[str])
    """503s, by group."""
    served: defaultdict[str, list[float]] = field(
        default_factory=lambda: defaultdict[str, list[float]](list)
    )
    """When something succeeded, by group."""
    odd: Counter[str] = field(default_factory=Counter[str])
    """Answers that nobody should get."""
    wrong: list[str] = field(default_factory=list[str])
    """Data that aren't this session's."""
    replayed: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    """Cookies that worked after an acknowledged request had ended them, and when."""
    hung: int = 0
    unconfirmed: int = 0
    """Rotations that too few replicas had, as an event told the application."""
    given_up: int = 0
    """Sessions gone after a 503, or such a rotation."""
    retired: list[Retired] = field(default_factory=list[Retired])
    gone: list[Visit] = field(default_factory=list[Visit])
    """Sessions that an answer said weren't there."""

    def group(self, action: str, token: str | None) -> str:
        """Ending and beginning need a second key, which may be on another server."""
        return "lifecycle" if action in _LIFECYCLE or not token else self.group_of(token)

    def count(self, action: str, group: str, reply: Reply) -> None:
        self.answers[f"{action} {reply.status}"] += 1
        if reply.status < 400:
            self.served[group].append(time.monotonic())
        elif reply.status == 503:
            self.refused[group] += 1
        else:
            self.odd[f"{action}: {reply.status}"] += 1


class Browser:
    """Signs in, reads, changes, rotates and signs out, at whichever worker."""

    def __init__(self, number: int, workers: Sequence[Worker], record: Record) -> None:
        self.number = number
        self.visit: Visit | None = None
        self._workers = workers
        self._home = workers[number // 2 % len(workers)]
        self._record = record
        self._random = random.Random(number)  # noqa: S311 - nobody has to guess it
        self._shares = _MOVES if number % 2 else _STAYS
        self._refused = False  # the last time
        self._changes = 0
        self._mine: list[Retired] = []

    async def use(self, stop: asyncio.Event) -> None:
        """Until `stop` is set: then the request that is under way still ends."""
        while not stop.is_set():
            visit = self.visit
            if visit is None:
                await self._sign_in()
            elif self._refused:
                await self._act("read", visit)
            else:
                (action,) = self._random.choices(list(self._shares), list(self._shares.values()))
                await (self._replay() if action == "replay" else self._act(action, visit))
            await asyncio.sleep(self._random.uniform(*_THINKS))

    async def ask(
        self, action: str, number: int, token: str | None, worker: Worker | None = None
    ) -> Reply | None:
        """The reply, counted; None if there is none that an application could give."""
        record = self._record
        if worker is None:
            stays = self._random.random() < _AT_HOME
            worker = self._home if stays else self._random.choice(self._workers)
        self._refused = True
        try:
            async with asyncio.timeout(PATIENCE):
                reply = await worker.ask(action, number, token)
        except TimeoutError:
            record.hung += 1
            return None
        except Exception as exc:  # noqa: BLE001 - a server would answer 500
            record.odd[f"{action}: {exc!r}"[:300]] += 1
            return None
        record.count(action, record.group(action, token), reply)
        self._refused = reply.status >= 400
        return reply

    async def _sign_in(self) -> None:
        reply = await self.ask("sign-in", self.number, None)
        if reply is not None and reply.token:
            self.visit = Visit(self.number, reply.token)
        elif reply is not None and reply.status < 400:
            self._record.odd["sign-in without a cookie"] += 1

    async def _act(self, action: str, visit: Visit) -> None:
        change = 0
        if action == "add":
            self._changes += 1
            change = self._changes
            visit.begun.add(change)
        ends = action in _LIFECYCLE
        reply = await self.ask(action, change, visit.token)
        if (reply is None or reply.status >= 400) and (ends or action == "rotate"):
            visit.unsure.add(action)
        if reply is None:
            return
        if reply.status < 400 and not self._is_there(reply.page, visit):
            self._leave(visit, "found ended" if visit.unsure & _LIFECYCLE else None)
            return
        if reply.token:
            if reply.unconfirmed:  # the new token is sent all the same, and an event says so
                visit.unsure.add(action)
                self._record.unconfirmed += 1
            else:
                self._retire(visit, "rotated")
            visit.token = reply.token
        if reply.status >= 400:
            return
        if action == "add":
            visit.told.add(change)
        elif ends:
            self._leave(visit, "ended")

    def _is_there(self, page: Page, visit: Visit) -> bool:
        """Whether this is the session; what it lacks, and what isn't its own, is noted."""
        record = self._record
        if page.owner is None:
            return False
        check(page, visit, record)
        visit.missed.update(dict.fromkeys(visit.told.difference(page.done), time.monotonic()))
        return True

    def _leave(self, visit: Visit, how: How | None) -> None:
        """The session is over for this browser, by its own request or not."""
        self.visit = None
        if how is not None:
            self._retire(visit, how)
        if how == "ended":
            return
        if visit.unsure:
            self._record.given_up += 1
        else:
            visit.left = time.monotonic()
            self._record.gone.append(visit)

    def _retire(self, visit: Visit, how: How) -> None:
        retired = Retired(visit.token, visit.number, how)
        self._mine.append(retired)
        self._record.retired.append(retired)

    async def _replay(self) -> None:
        """Somebody tries one of the last cookies that this browser has given back."""
        ended = [retired for retired in self._mine[-5:] if retired.how == "ended"]
        if not ended:
            return
        token = self._random.choice(ended).token
        reply = await self.ask("read", 0, token)
        if reply is not None and reply.status < 400 and reply.page.owner is not None:
            self._record.replayed.append((token, time.monotonic()))
            if reply.page.owner != self.number:
                self._record.wrong.append(
                    f"{self.number} saw {reply.page.owner}'s by an old cookie"
                )


def check(page: Page, visit: Visit, record: Record) -> None:
    """Note what this browser never wrote to this session."""
    others = set(page.done) - visit.begun
    if page.owner != visit.number or others:
        record.wrong.append(f"{visit.number} saw {page.owner}'s session, with {sorted(others)[:5]}")


class Load:
    """All browsers at work while the block runs; afterwards their last requests are over."""

    def __init__(self, workers: Sequence[Worker], record: Record, count: int = BROWSERS) -> None:
        self.browsers = [Browser(number, workers, record) for number in range(1, count + 1)]
        self._stop = asyncio.Event()
        self._tasks = list[asyncio.Task[None]]()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(b.use(self._stop)) for b in self.browsers]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)
