"""After the servers have recovered: what is left of what was acknowledged, and what came back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tests.chaos.browsers import Browser, Load, Record, Retired, check
from tests.chaos.site import Later, Worker

_TOUCH: Final = 301  # seconds after which any session is touched
_AT_ONCE: Final = 64


@dataclass
class Report:
    """One run. Counts are of requests if nothing else is said."""

    scenario: str
    variant: str
    failovers: int = 0
    """What the Sentinels count: two, where they took the first heir for dead, too."""
    unavailable: float = 0
    """Seconds: the longest time in which no session of the servers concerned was served."""
    unavailable_lifecycle: float = 0
    """The same for signing in and out, which may need two servers, and the replicas."""
    refused: int = 0
    """Answered 503."""
    refused_elsewhere: int = 0
    """Of these, for sessions of servers that nothing happened to."""
    requests: int = 0
    changes_told: int = 0
    """Acknowledged changes of sessions that live."""
    changes_lost: int = 0
    """Of these, those that aren't there."""
    sessions_told: int = 0
    """Sessions that were begun or rotated by acknowledged requests, and live by rights."""
    sessions_lost: int = 0
    """Of these, those that aren't there."""
    ended: int = 0
    """Cookies of sessions whose end was acknowledged."""
    revived: int = 0
    """Of these, those that work."""
    survivors: int = 0
    """Of the revived, sessions: those that work after their next touch."""
    rotated: int = 0
    """Tokens replaced by acknowledged rotations."""
    rotated_back: int = 0
    """Of these, those that work."""
    ended_twice: int = 0
    """Sessions whose end was answered 503, and was found to be so by the next request."""
    ended_twice_revived: int = 0
    old_reads: int = 0
    """Acknowledged changes, sessions and ends that weren't lost, but that an answer didn't show."""
    old_for: float = 0
    """Seconds from the fault, or the healing if that is a step of its own, to the last of them."""
    given_up: int = 0
    """Sessions gone after a 503, or an unconfirmed rotation."""
    unconfirmed: int = 0
    """Rotations that too few replicas had, as an event told the application."""
    wrong: list[str] = field(default_factory=list[str])
    odd: dict[str, int] = field(default_factory=dict[str, int])
    hung: int = 0
    unrecovered: int = 0
    """Requests after the recovery that weren't served, at any worker, or contradict each other."""

    def violations(self, *, confirmed: bool, every: bool, cluster: bool) -> list[str]:
        """What may never happen.

        `confirmed`: all replicas had what was acknowledged of beginnings;
        `every`: and of all changes. `cluster`: a server's trouble is its own sessions' alone.
        """
        never: list[tuple[str, object]] = [
            ("wrong data", self.wrong),
            ("odd answers", self.odd),
            ("requests hang", self.hung),
            ("isn't served afterwards", self.unrecovered),
            # Those who answered are all alive.
            ("sessions revived", self.revived),
            ("replaced tokens open again", self.rotated_back),
        ]
        if confirmed:
            never.append(("sessions lost", self.sessions_lost))
        if every:
            never.append(("changes lost", self.changes_lost))
        if cluster:
            never.append(("refused by servers that are well", self.refused_elsewhere))
        return [f"{what}: {found}" for what, found in never if found]


async def audit(
    report: Report,
    load: Load,
    record: Record,
    workers: Sequence[Worker],
    clock: Later,
    healed: float,
) -> None:
    """Compare what every worker finds with what was acknowledged; then let touches be due."""
    old = [*await _visits(report, load, record, workers)]
    old += await _gone(report, load.browsers[0], record)
    back = await _retired(report, load.browsers[0], record.retired)
    revived = {retired.token for retired in back}
    old += [at for token, at in record.replayed if token not in revived]
    report.old_reads = len(old)
    report.old_for = max((at - healed for at in old if at > healed), default=0.0)
    clock.shift += _TOUCH
    sessions = [retired for retired in back if retired.how == "ended"]
    await _open(load.browsers[0], sessions)  # this request touches it, and is the last
    report.survivors = len(await _open(load.browsers[0], sessions))
    report.wrong, report.odd, report.hung = record.wrong, dict(record.odd), record.hung
    report.given_up, report.unconfirmed = record.given_up, record.unconfirmed


async def _visits(
    report: Report, load: Load, record: Record, workers: Sequence[Worker]
) -> list[float]:
    """What is there; the times of answers that lacked some of it."""
    old = list[float]()
    for browser in load.browsers:
        visit = browser.visit
        if visit is None:
            continue
        replies = [await browser.ask("read", 0, visit.token, worker) for worker in workers]
        pages = [r.page for r in replies if r is not None and r.status < 400]
        report.unrecovered += len(replies) - len(pages)
        report.unrecovered += sum(one != other for one, other in pairwise(pages))
        if not pages:
            continue
        if pages[0].owner is None:
            if visit.unsure:
                record.given_up += 1
            else:
                record.gone.append(visit)
            continue
        check(pages[0], visit, record)
        lost = visit.told.difference(pages[0].done)
        report.sessions_told += 1
        report.changes_told += len(visit.told)
        report.changes_lost += len(lost)
        old += [at for change, at in visit.missed.items() if change not in lost]
    return old


async def _gone(report: Report, browser: Browser, record: Record) -> list[float]:
    """Sessions that somebody missed: when that was, of those that are there all the same."""
    old = list[float]()
    for visit in record.gone:
        reply = await browser.ask("read", 0, visit.token)
        there = reply is not None and reply.page.owner == visit.number
        report.sessions_told += 1
        report.sessions_lost += not there
        if there:
            old.append(visit.left)
    return old


async def _retired(report: Report, browser: Browser, retired: Sequence[Retired]) -> list[Retired]:
    back = await _open(browser, retired)
    of, again = (Counter(item.how for item in items) for items in (retired, back))
    report.ended, report.revived = of["ended"], again["ended"]
    report.rotated, report.rotated_back = of["rotated"], again["rotated"]
    report.ended_twice, report.ended_twice_revived = of["found ended"], again["found ended"]
    return back


async def _open(browser: Browser, cookies: Sequence[Retired]) -> list[Retired]:
    """Those of these cookies that open a session."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def opens(cookie: Retired) -> bool:
        async with limit:
            reply = await browser.ask("read", 0, cookie.token)
        return reply is None or reply.page.owner is not None

    opened = await asyncio.gather(*map(opens, cookies))
    return [cookie for cookie, works in zip(cookies, opened, strict=True) if works]


def longest_gap(times: Sequence[float], began: float, ended: float) -> float:
    """The longest time between two of these, or an end."""
    inside = [began, *(time for time in sorted(times) if began <= time <= ended), ended]
    return max(after - before for before, after in pairwise(inside))
