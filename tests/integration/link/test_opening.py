"""What changes while a link is being opened, or while links are being closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis_sessions.connect.sender import Sender
from tests.integration.link.asking import Asking, answers
from tests.integration.wrong_servers import listening
from tests.support.proxy import Proxy


def bulk(text: object) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(str(text)), str(text).encode())


def sentinel(port: Callable[[], int]) -> Callable[[bytes], bytes]:
    """A Sentinel for which the server at this port is the primary."""

    def answer(name: bytes) -> bytes:
        if name != b"SENTINEL":
            return b"+OK\r\n"
        words = ["name", "main", "ip", "127.0.0.1", "port", port(), "flags", "master"]
        words += ["num-other-sentinels", 0]
        return b"*1\r\n*%d\r\n" % len(words) + b"".join(map(bulk, words))

    return answer


async def test_another_primary_meanwhile() -> None:
    """A link that was opened to the former one is left, and what waits leaves over another."""
    reached, free = asyncio.Event(), asyncio.Event()

    async def slowly() -> bytes:
        reached.set()
        await free.wait()
        return b"+OK\r\n"

    def former(name: bytes) -> Any:
        return slowly() if name == b"AUTH" else bulk("former")

    def later(name: bytes) -> bytes:
        return bulk("later") if name == b"ECHO" else b"+OK\r\n"

    async with listening(former) as first, listening(later) as second:
        primary = first
        async with listening(sentinel(lambda: primary)) as port:
            at = Asking(f"redis+sentinel://app:sesame@127.0.0.1:{port}/main/0")
            other = Asking("redis://127.0.0.1:1/0", sender=Sender(at.dialer, 2.0))
            waiting = at.submit("a")
            await reached.wait()
            primary = second
            assert await other.replies("b") == [b"later"]
            free.set()
            assert await answers(*waiting) == [b"later"]
            await other.sender.close()
            await at.close()


async def test_closing_is_broken_off(at: Asking, proxy: Proxy) -> None:
    """The sender goes on as before: not every reply closes its link."""
    proxy.freeze()
    futures = [*await at.submit_and_send("a"), *await at.submit_and_send("b"), *at.submit("c")]
    closing = asyncio.create_task(at.close())
    await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    proxy.heal()
    assert await answers(*futures) == [b"a", b"b", b"c"]
    await at.assert_serves()
    assert proxy.connections == 1
