"""Whatever a server sends to a subscriber: it is taken, or the connection is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from redis_sessions import StoreError
from redis_sessions.connect.connector import connector_of
from redis_sessions.connect.subscriber import Subscriber

ASKED = ["session:msg:a", "session:msg:b"]


class Hearer:
    """What was told."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.confirmed: list[str] = []
        self.lost: list[StoreError] = []

    def on_message(self, channel: str, data: bytes) -> None:
        assert not self.lost
        self.messages.append((channel, data))

    def on_subscribed(self, by: Subscriber, channel: str) -> None:
        assert channel in ASKED
        self.confirmed.append(channel)

    def on_refused(self, by: Subscriber, channels: Sequence[str], error: Exception) -> None:
        assert isinstance(error, Exception)

    def on_dropped(self, by: Subscriber, channel: str) -> None:
        assert isinstance(channel, str)

    def on_lost(self, by: Subscriber, error: StoreError) -> None:
        assert isinstance(error, StoreError)
        self.lost.append(error)


def resp(value: bytes | int | str | list[Any]) -> bytes:
    """As a server writes it."""
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, list):
        return b"*%d\r\n%b" % (len(value), b"".join(map(resp, value)))
    return f"{value}\r\n".encode()


WORDS = st.sampled_from(
    [
        *(b"message", b"smessage", b"subscribe", b"ssubscribe", b"unsubscribe", b"sunsubscribe"),
        *(b"pong", b"ping", b"error", b"invalidate", b"session:msg:a", b"session:msg:b", b"\xff"),
    ]
)
PARTS = WORDS | st.binary(max_size=8) | st.integers(-(2**63), 2**63 - 1)
REPLIES = st.one_of(
    st.lists(PARTS, max_size=4).map(resp),
    PARTS.map(resp),
    st.sampled_from(["+PONG", "+OK", "-ERR no", "-MOVED 1 a:1", "-MOVED", "_", "%1", "$-1"]).map(
        resp
    ),
    st.binary(max_size=12),
)


@given(st.lists(REPLIES, max_size=12), st.booleans())
def test_hostile_replies(replies: list[bytes], sharded: bool) -> None:
    """Nothing is raised into the event loop, and nothing is told after the connection was left."""

    async def run() -> None:
        hearer = Hearer()
        subscriber = Subscriber(connector_of("redis://127.0.0.1:1"), 2.0, hearer)
        subscriber.sharded = sharded
        subscriber.subscribe(ASKED)
        subscriber.unsubscribe(ASKED[:1])
        for reply in replies:
            subscriber.data_received(reply)
        assert len(hearer.lost) == subscriber.lost
        assert len(hearer.confirmed) <= len(ASKED)

    asyncio.run(run())
