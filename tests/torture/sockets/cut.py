"""A link that is cut off while its users are signed out through another worker.

The worker keeps near copies for a second. It may serve them that long, and not longer. As long as
it can reach no server, it can't know that a session has ended: its sockets stay open. They end when
a server can be reached again, within the bound and the time that it takes to connect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from tests.support.proxy import Proxy
from tests.torture.sockets.clients import Open
from tests.torture.sockets.figures import Times
from tests.torture.sockets.fleet import Worker, each, fleet
from tests.torture.sockets.places import Place

BOUND: Final = 1.0
_TICK: Final = 0.002
"""The resolution of the clocks of event loops, and some."""
_AWAY: Final = 1.5
"""For how many bounds no server can be reached."""
_PAUSE: Final = 0.02  # between two reads of one session

How = Literal["dropped", "refused", "half-open", "frozen"]
HOWS: Final[dict[How, str]] = {
    "dropped": "a link is cut off (its connections are dropped)",
    "refused": "a link is cut off (its connections are dropped, and new ones refused)",
    "half-open": "a link is cut off (its connections are silent for ever, new ones work)",
    "frozen": "a link is cut off (nothing comes through)",
}


class _Browser:
    """One session: its socket, and a page that is read all the time."""

    def __init__(self, worker: Worker, token: str, socket: Open) -> None:
        self.token = token
        self.socket = socket
        self.served = list[float]()
        """When those requests were sent that were answered with the session."""
        self.gone = list[float]()
        """When those were sent that found no session."""
        self._worker = worker

    async def read(self) -> None:
        sent = time.monotonic()
        answer = await self._worker.ask("GET", "/read", self.token)
        if answer.status == 200:
            (self.served if answer.body else self.gone).append(sent)
        else:
            assert answer.status == 503, answer

    async def keep_reading(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                group.create_task(self.read())
                await asyncio.sleep(_PAUSE)


async def cut_off(
    place: Place, port: int, sessions: int, rounds: int = 1, bound: float = BOUND
) -> list[Times]:
    """What was served and what lived on, and how long, after the answer to the sign-out.

    `port` is the server's, before which the proxy is put for one of the two workers.
    """
    times = list[Times]()
    with Proxy(port) as proxy:
        through = place.url.replace(f":{port}", f":{proxy.port}")
        assert through != place.url
        near = Place(place.name, through, place.prefix).store(client_cache=bound)
        async with fleet(near, place.store()) as (here, there):
            trial = _Trial(here, there, proxy, bound)
            for how, what in HOWS.items():
                served, lived = list[float](), list[float]()
                for _ in range(rounds):
                    await trial.run(how, sessions, served, lived)
                back = "" if how in ("dropped", "half-open") else ", since a server can be reached"
                times += [
                    Times(f"{what}: the latest read with the session", place.name, served),
                    Times(f"{what}: the end of the socket{back}", place.name, lived),
                ]
    return times


class _Trial:
    def __init__(self, here: Worker, there: Worker, proxy: Proxy, bound: float) -> None:
        self._here = here
        self._there = there
        self._bound = bound
        self._proxy = proxy
        self._breaks: dict[How, Callable[[], None]] = {
            "dropped": partial(_drop, proxy),
            "refused": proxy.cut,
            "half-open": proxy.strand,
            "frozen": proxy.freeze,
        }

    async def run(self, how: How, sessions: int, served: list[float], lived: list[float]) -> None:
        """Cut the link off in this way, while so many users are signed out."""
        browsers, stop = await each(range(sessions), self._begin), asyncio.Event()
        readers = [asyncio.create_task(browser.keep_reading(stop)) for browser in browsers]
        await asyncio.sleep(3 * _PAUSE)
        self._breaks[how]()
        answered = await each([browser.token for browser in browsers], self._there.sign_out)
        await asyncio.sleep(self._bound * _AWAY)
        since = answered
        if how in ("refused", "frozen"):
            assert all(browser.socket.lives for browser in browsers), "a socket ended by itself"
            self._proxy.heal()
            since = [time.monotonic()] * sessions
        ends = [await browser.socket.end() for browser in browsers]
        stop.set()
        await asyncio.gather(*readers)
        lived += [end - begin for end, begin in zip(ends, since, strict=True)]
        for browser, at in zip(browsers, answered, strict=True):
            latest = max(browser.served) - at
            assert latest <= self._bound + _TICK, f"a copy was served {latest} s after the sign-out"
            await browser.read()
            assert browser.gone, "nobody has found that the session is gone"
            served.append(latest)

    async def _begin(self, number: int) -> _Browser:
        token = await self._there.sign_in(f"user-{number}")
        browser = _Browser(self._here, token, await self._here.open("/socket", token))
        await browser.read()
        return browser


def _drop(proxy: Proxy) -> None:
    proxy.cut()
    proxy.heal()
