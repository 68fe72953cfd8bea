"""From a session's dict to bytes and back: ours beside what others do, at four sizes.

`open` is from stored bytes to the dict, `seal` the other way, both with whatever protects them;
`encode` is serialising alone, and `compare` what finding out that nothing changed takes.
"""

from __future__ import annotations

import gc
import json
import pickle
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from itsdangerous import TimestampSigner

from benchmarks.driver import Progress, turns
from benchmarks.peers import Forgetful
from benchmarks.ratios import ratio_of, rounds_of
from redis_sessions import Keyring, SessionToken, generate_key
from redis_sessions.session.record import Record, Stored
from redis_sessions.session.values import Values, decode, raw

__all__ = ["COOKIE", "FULL", "OPERATIONS", "OURS", "QUICK", "Size", "measure", "session_data"]

OURS = "redis-sessions"
COOKIE = "itsdangerous + json"
OPERATIONS = ("open", "seal", "encode", "compare")

Data = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is measured. `seconds`: of one block."""

    rounds: int = 7
    seconds: float = 0.02
    sizes: Sequence[int] = (150, 2_000, 20_000, 200_000)


FULL = Size()
QUICK = Size(rounds=1, seconds=0.0005, sizes=(150,))


@dataclass(frozen=True)
class Codec:
    """One way to keep a session. `open(seal(data)) == data`."""

    name: str
    seal: Callable[[Data], bytes]
    open: Callable[[bytes], Data]
    encode: Callable[[Data], bytes]


def session_data(size: int) -> Data:
    """A session of about `size` bytes, packed: what a shop might keep."""
    encode = Values(max_size=2 * size).encode
    data: Data = {"user_id": 12345, "csrf": "PVQd3yIh0nD3NMbHhC7QpqsDTDyRtjZSwX1yfRtZzZQ"}
    empty, each = len(encode(data)) + 6, len(encode({"": _item(0)})) - 2
    data["cart"] = [_item(number) for number in range((size - empty) // each)]
    data["note"] = "n" * max(0, size - len(encode(data)) - 6)
    return data


def _item(number: int) -> Data:
    return {"sku": f"A-{number:05}", "count": number % 7, "price": 1299, "gift": False}


def ours(size: int) -> Codec:
    """The record: derive the key, secretbox, MessagePack; as the manager does it."""
    encode = Values(max_size=2 * size).encode
    # Opening the same bytes again would be cheaper: a process remembers what it opened lately.
    token, sealer = SessionToken.generate(), Forgetful(Keyring(generate_key()), "session:")
    now = int(time.time())
    record = Record(
        created_at=now, authenticated_at=now * 1000, seen_at=now, expires_at=now + 1_209_600,
        idle=604_800, persistent=True, owner=b"o" * 12, binding=None, data=raw(b"\x80"),
    )  # fmt: skip

    def unseal(stored: bytes) -> Data:
        opened = sealer.open(token, stored)
        assert isinstance(opened, Stored)
        return decode(opened.data)

    def seal(data: Data) -> bytes:
        return sealer.seal(token, record.amended(data=encode(data)), 0).sealed

    return Codec(OURS, seal, unseal, encode)


def cookie(_: int) -> Codec:
    """As Starlette's SessionMiddleware does it."""
    signer = TimestampSigner(generate_key())

    def unsign(stored: bytes) -> Data:
        data: Data = json.loads(b64decode(signer.unsign(stored, max_age=1_209_600)))
        return data

    def sign(data: Data) -> bytes:
        return signer.sign(b64encode(json.dumps(data).encode()))

    return Codec(COOKIE, sign, unsign, lambda data: json.dumps(data).encode())


def fernet(_: int) -> Codec:
    """Encryption as cryptography's recipe has it."""
    from cryptography.fernet import Fernet

    box = Fernet(Fernet.generate_key())
    return Codec(
        "Fernet + json",
        lambda data: box.encrypt(json.dumps(data).encode()),
        lambda stored: json.loads(box.decrypt(stored)),
        lambda data: json.dumps(data).encode(),
    )


def pickled(_: int) -> Codec:
    """No protection at all, and whoever can write to the store can run code."""
    return Codec("pickle", pickle.dumps, pickle.loads, pickle.dumps)


def codecs(size: int) -> list[Codec]:
    made = [cookie(size), pickled(size), ours(size)]
    return [*made, fernet(size)] if find_spec("cryptography") else made


def actions(codec: Codec, data: Data) -> dict[str, Callable[[], object]]:
    stored, encoded = codec.seal(data), codec.encode(data)
    if codec.open(stored) != data:
        raise RuntimeError(f"{codec.name} changed the data")
    return {
        "open": lambda: codec.open(stored),
        "seal": lambda: codec.seal(data),
        "encode": lambda: codec.encode(data),
        "compare": lambda: codec.encode(data) == encoded,
    }


def once(action: Callable[[], object], count: int) -> float:
    """Microseconds that one call takes."""
    gc.collect()
    start = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - start) / count * 1e6


def at_size(size: int, how: Size) -> list[dict[str, Any]]:
    data = session_data(size)
    made = codecs(size)
    ready = {codec.name: actions(codec, data) for codec in made}
    packed = len(Values(max_size=2 * size).encode(data))
    rows: list[dict[str, Any]] = []
    for operation in OPERATIONS:
        taken: dict[str, list[float]] = {codec.name: [] for codec in made}
        counts = {
            name: max(1, int(how.seconds * 1e6 / once(these[operation], 3)))
            for name, these in ready.items()
        }
        for number in range(1 + how.rounds):  # the first one warms up
            for codec in turns(made, number):
                action = ready[codec.name][operation]
                taken[codec.name].append(round(once(action, counts[codec.name]), 4))
        rows += [
            {
                "operation": operation,
                "size": packed,
                "codec": codec.name,
                "stored": len(codec.seal(data)),
                "us": taken[codec.name][1:],
            }
            for codec in made
        ]
    return rows


def measure(how: Size = FULL, progress: Progress = print) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for size in how.sizes:
        rows += at_size(size, how)
        for operation in OPERATIONS:
            progress(line([r for r in rows[-16:] if r["operation"] == operation]))
    return {"rounds": how.rounds, "codec": rows}


def line(rows: Sequence[Mapping[str, Any]]) -> str:
    found = {row["codec"]: row for row in rows}
    parts = [
        f"{name} {rounds_of(row, 'us').best():.2f} ({ratio_of(row, found[COOKIE], 'us')})"
        for name, row in found.items()
    ]
    return f"{rows[0]['operation']:8}{rows[0]['size']:7} B: " + ", ".join(parts)
