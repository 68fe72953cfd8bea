"""Messages to many open WebSockets, from the call of `to_all()` to their arrival in the client.

python -m benchmarks.messages [--sockets 1000] [--workers 2] [--messages 100] [--kind redis]

Each socket is a user of its own. Each worker is a uvicorn on a port of its own, so that they have
the same number of sockets, and sends in turn. All share this machine, and its clock.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from benchmarks.driver import percentile, run
from benchmarks.servers import KINDS, free_port, serving
from benchmarks.shop import SECRET
from redis_sessions import SessionManager, SessionMiddleware, get_session
from redis_sessions.messages import Missed
from redis_sessions.testing import store_session

COOKIE = "sid"
ROOT = Path(__file__).parents[1]
PATIENCE = 60.0
AT_ONCE = 50  # handshakes
HANDSHAKE = (
    "GET /news HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Cookie: {}\r\n\r\n"
)


def application() -> Starlette:
    """What each worker serves."""
    manager = SessionManager(os.environ["BENCH_URL"], os.environ["BENCH_SECRET"])

    async def news(websocket: WebSocket) -> None:
        await websocket.accept()

        async def deliver() -> None:
            async with get_session(websocket).messages() as messages:
                await websocket.send_json({"worker": os.getpid()})
                async for message in messages:
                    missed = isinstance(message, Missed)
                    await websocket.send_json({"missed": True} if missed else message)

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            async for _ in websocket.iter_text():
                pass

    async def send(request: Request) -> Response:
        n = int(request.path_params["n"])
        await manager.messages.to_all({"n": n, "at": time.monotonic()})
        return JSONResponse(None)

    app = Starlette(
        routes=[WebSocketRoute("/news", news), Route("/send/{n:int}", send, methods=["POST"])]
    )
    app.add_middleware(SessionMiddleware, manager=manager, session_cookie=COOKIE, https_only=False)
    return app


class Listener(asyncio.Protocol):
    """A WebSocket that reads small frames, and notes when each came."""

    def __init__(self, cookie: str) -> None:
        self.worker = 0
        self.missed = 0
        self.latencies: list[float] = []
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cookie = cookie
        self._buffer = b""
        self._upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(HANDSHAKE.format(self._cookie).encode())

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        self._buffer += data
        if not self._upgraded:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(head.decode())
            self._upgraded, self._buffer = True, rest
        while len(self._buffer) >= 2 and len(self._buffer) >= (end := 2 + self._buffer[1]):
            frame, self._buffer = self._buffer[2:end], self._buffer[end:]
            message = json.loads(frame)
            if "worker" in message:
                self.worker = message["worker"]
                self.begun.set_result(None)
            elif "missed" in message:
                self.missed += 1
            else:
                self.latencies.append(now - message["at"])


def _itself(listener: Listener) -> Listener:
    return listener


async def measured(ports: Sequence[int], url: str, sockets: int, messages: int) -> str:
    """Open the sockets, send the messages one after the other, and say what came of it."""
    loop = asyncio.get_running_loop()
    manager = SessionManager(url, SECRET)
    tokens = [await store_session(manager, {"user_id": str(n)}) for n in range(sockets)]
    await manager.close()
    listeners = list[Listener]()
    for start in range(0, sockets, AT_ONCE):
        some = [Listener(f"{COOKIE}={token}") for token in tokens[start : start + AT_ONCE]]
        for number, each in enumerate(some):
            port = ports[number % len(ports)]
            await loop.create_connection(partial(_itself, each), "127.0.0.1", port)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(each.begun for each in some))
        listeners += some
    last = list[float]()
    senders = [await asyncio.open_connection("127.0.0.1", port) for port in ports]
    for n in range(messages):
        reader, writer = senders[n % len(senders)]
        head = f"POST /send/{n} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len("null"))
        async with asyncio.timeout(PATIENCE):
            while any(len(each.latencies) + each.missed <= n for each in listeners):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        last.append(max(each.latencies[-1] for each in listeners))
    for _, writer in senders:
        writer.close()
    every = sorted(latency for each in listeners for latency in each.latencies)
    workers = Counter(each.worker for each in listeners)
    for each in listeners:
        each.transport.abort()
    p50, p99 = (percentile(every, share) * 1e3 for share in (0.5, 0.99))
    until = percentile(sorted(last), 0.5) * 1e3
    return (
        f"{messages} messages to {sockets} WebSockets over {len(workers)} workers "
        f"({', '.join(map(str, workers.values()))}): from to_all() to the client p50 {p50:.1f} ms, "
        f"p99 {p99:.1f} ms, at most {every[-1] * 1e3:.1f} ms; until the last has it (median) "
        f"{until:.1f} ms; missed {sum(each.missed for each in listeners)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.messages", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--messages", type=int, default=100)
    parser.add_argument("--kind", choices=KINDS, default="redis")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the workers inherit it
    with serving(given.kind) as server, ExitStack() as stack:
        ports = [stack.enter_context(_worker(server.url)) for _ in range(given.workers)]
        print(run(measured(ports, server.url, given.sockets, given.messages)))


@contextmanager
def _worker(url: str) -> Generator[int]:
    """The port of a uvicorn that serves the application."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "benchmarks.messages:application"]
    command += ["--port", str(port), "--loop", "uvloop", "--ws-ping-interval", "600"]
    command += ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
    environment = {**os.environ, "BENCH_URL": url, "BENCH_SECRET": SECRET}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            _await_start(port, process)
            yield port
        finally:
            process.terminate()
            process.wait(30)


def _await_start(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


if __name__ == "__main__":
    main()
