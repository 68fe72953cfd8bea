"""What telemetry costs a request, in instructions: `python -m benchmarks.telemetry`.

It needs valgrind, which counts the same in each run, also on a busy machine. Each count is the
difference of two processes with fewer and more requests, so that their start isn't in it. The
requests are ASGI calls on uvloop, 16 in flight, over a Redis at a Unix socket.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from benchmarks import driver
from benchmarks.servers import available, listening
from benchmarks.shop import SECRET
from redis_sessions import RedisStore, SessionManager, SessionMiddleware
from redis_sessions.telemetry import instrument
from redis_sessions.testing import store_session

LANES: Final = 16
FEW, MANY = 5, 45
"""Requests in each lane, in the two runs."""
TIMEOUT: Final = 2.5
"""Seconds, the most that there may be: under valgrind all takes fifty times as long."""
COUNTS: Final = {
    "off": "without `instrument()`",
    "api": "with it, and no SDK",
    "metrics": "with the SDK's metrics",
    "span": "a span around each request, without `instrument()`",
    "both": "with it, metrics, and that span",
    "spans": "the same with `spans=True`",
}
WORK: Final = ("read", "change")


def application(name: str) -> Callable[[SessionManager], ASGIApp]:
    """Makes the application of one of `COUNTS`."""

    def make(manager: SessionManager) -> ASGIApp:
        metrics = MeterProvider([InMemoryMetricReader()])
        traces = TracerProvider()
        given: dict[str, Any] = {}
        if name in ("metrics", "both", "spans"):
            given["meter_provider"] = metrics
        if name in ("both", "spans"):
            given["tracer_provider"] = traces
        if name not in ("off", "span"):
            instrument(manager, spans=name == "spans", **given)
        app: ASGIApp = SessionMiddleware(answer, manager=manager)
        return app if name in ("off", "api", "metrics") else spanned(app, traces)

    return make


def spanned(app: ASGIApp, provider: TracerProvider) -> ASGIApp:
    """What an instrumentation of the web framework does, and no more of it than the span."""
    tracer = trace.get_tracer("benchmark", tracer_provider=provider)

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        with tracer.start_as_current_span("request"):
            await app(scope, receive, send)

    return run


async def answer(scope: Scope, _: Receive, send: Send) -> None:
    session = scope["session"]
    if scope["path"] == "/change":
        session["n"] = session.get("n", 0) + 1
    else:
        session.get("n")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def requests(name: str, url: str, work: str, number: int) -> None:
    """So many requests in each lane, each lane with a session of its own."""
    manager = SessionManager(RedisStore(url, timeout=TIMEOUT), SECRET)
    app = application(name)(manager)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_: Message) -> None: ...

    async def lane(token: str) -> None:
        headers = [(b"host", b"localhost"), (b"cookie", f"__Host-session={token}".encode())]
        scope = {"type": "http", "method": "GET", "path": f"/{work}", "scheme": "https"}
        for _ in range(number):
            await app({**scope, "headers": headers}, receive, send)

    tokens = [await store_session(manager, {"user_id": n}) for n in range(LANES)]
    await asyncio.gather(*map(lane, tokens))
    await manager.close()


def instructions(name: str, url: str, work: str, number: int) -> int:
    """What the whole process has executed, in user space."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command += [sys.executable, "-m", "benchmarks.telemetry", name, url, work, str(number)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}")
    return int(found[1].replace(",", ""))


def main(*arguments: str) -> None:
    """The table, or one process of it."""
    if arguments:
        name, url, work, number = arguments
        gc.disable()  # when it runs depends on what was imported
        driver.run(requests(name, url, work, int(number)))
        return
    rows: dict[str, list[int]] = {name: [] for name in COUNTS}
    with (
        tempfile.TemporaryDirectory() as directory,
        listening(available()[0], Path(directory) / "socket") as url,
    ):
        for name, row in rows.items():
            for work in WORK:
                few, many = (instructions(name, url, work, n) for n in (FEW, MANY))
                row.append((many - few) // ((MANY - FEW) * LANES))
    print("| a request's instructions | read | change |\n|---|---|---|")
    for name, row in rows.items():
        print(f"| {COUNTS[name]} | {' | '.join(f'{count:,}' for count in row)} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
