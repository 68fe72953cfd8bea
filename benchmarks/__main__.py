"""Open and seal records, load and commit them, each beside a yardstick of the same minute."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from itsdangerous import TimestampSigner
from redis.asyncio import Redis

from redis_sessions import Commit, Keyring, RedisStore, SessionToken, generate_key
from redis_sessions.embedded import ensure_server
from redis_sessions.record import HEADER_SIZE, Record, Sealer
from redis_sessions.values import Values, decode, raw

SIZES = (150, 2_000, 20_000)
CONCURRENT = (1, 64)
PACKAGES = ("redis-sessions", "msgspec", "PyNaCl", "redis", "hiredis", "itsdangerous")
TTL = 600_000

Run = Callable[[], Awaitable[float]]
One = Callable[[int], Awaitable[object]]


class Case(NamedTuple):
    """`ours` and `yardstick` answer with the microseconds that one operation took."""

    name: str
    setting: str
    theirs: str
    ours: Run
    yardstick: Run


def session_data(size: int) -> dict[str, Any]:
    """A session of about `size` bytes, packed: what a shop might keep."""
    encode = Values(max_size=size).encode
    cart: list[dict[str, Any]] = []
    data = {"user_id": 12345, "csrf": "c" * 43, "cart": cart}
    while len(encode(data)) < size - 20:
        cart.append({"sku": f"A-{len(cart):05}", "count": len(cart) % 7, "price": 1299})
    return data


def repeated(function: Callable[[], object], count: int) -> Run:
    async def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            function()
        return (time.perf_counter() - start) / count * 1e6

    return run


def record_cases(size: int, operations: int) -> list[Case]:
    """Bytes to dict and back, as the middleware does it, and as Starlette's own does."""
    data, encode, token = session_data(size), Values(max_size=size).encode, SessionToken.generate()
    sealer, signer = Sealer(Keyring(generate_key()), "session:"), TimestampSigner(generate_key())
    now, packed = int(time.time()), encode(data)
    record = Record(
        created_at=now, authenticated_at=now * 1000, seen_at=now, expires_at=now + 1_209_600,
        idle=604_800, persistent=True, owner=b"o" * 12, binding=None, data=raw(packed),
    )  # fmt: skip

    def seal() -> bytes:
        return sealer.seal(token, record.amended(data=encode(data)), 0)

    def unseal() -> object:
        opened = sealer.open(token, sealed)
        assert isinstance(opened, Record)
        return decode(bytes(opened.data))

    def sign() -> bytes:
        return signer.sign(b64encode(json.dumps(data).encode()))

    def unsign() -> object:
        return json.loads(b64decode(signer.unsign(signed, max_age=1_209_600)))

    sealed, signed = seal(), sign()
    assert unseal() == unsign() == data
    count = max(1, operations * 150 // (size + 1_000))
    setting = f"{len(packed)} B, sealed {len(sealed)} B"
    return [
        Case("open", setting, "cookie", repeated(unseal, count), repeated(unsign, count)),
        Case("seal", setting, "cookie", repeated(seal, count), repeated(sign, count)),
    ]


def together(one: One, lanes: int, operations: int) -> Run:
    """`lanes` requests at a time, each doing one operation after the other."""
    each = max(1, operations // lanes)

    async def lane(number: int) -> None:
        for _ in range(each):
            await one(number)

    async def run() -> float:
        start = time.perf_counter()
        await asyncio.gather(*map(lane, range(lanes)))
        return (time.perf_counter() - start) / (each * lanes) * 1e6

    return run


async def store_cases(store: RedisStore, client: Redis, lanes: int, operations: int) -> list[Case]:
    """Bytes to and from Redis: through the store, and by plain commands of redis-py."""
    tokens = [SessionToken.generate() for _ in range(lanes)]
    keys = [store.prefix + token.id for token in tokens]
    # Two values in turn, so that making them isn't measured.
    values = [(os.urandom(250), os.urandom(250)) for _ in tokens]
    turns = [0] * lanes

    async def load(lane: int) -> None:
        assert await store.load(tokens[lane].id) is not None

    async def get(lane: int) -> None:
        assert await client.get(keys[lane]) is not None

    async def commit(lane: int) -> None:
        old, new = values[lane] if turns[lane] % 2 == 0 else reversed(values[lane])
        turns[lane] += 1
        result = await store.commit(tokens[lane].id, old[:HEADER_SIZE], new, TTL)
        assert result is Commit.STORED

    async def put(lane: int) -> None:
        await client.set(f"{keys[lane]}:plain", values[lane][0], px=TTL)

    for token, (first, _) in zip(tokens, values, strict=True):
        await store.commit(token.id, None, first, TTL)

    runs = [together(one, lanes, operations) for one in (load, get, commit, put)]
    setting = f"{lanes} at a time"
    return [Case("load", setting, "GET", *runs[:2]), Case("commit", setting, "SET", *runs[2:])]


async def measure(url: str, rounds: int, operations: int) -> dict[str, Any]:
    store = RedisStore(url, prefix=f"bench:{generate_key()[:8]}:")
    client = Redis.from_url(url, protocol=2)
    cases = [case for size in SIZES for case in record_cases(size, 10 * operations)]
    for lanes in CONCURRENT:
        cases += await store_cases(store, client, lanes, operations)
    taken: list[list[tuple[float, float]]] = [[] for _ in cases]
    for _ in range(1 + rounds):  # the first one warms up
        for case, pairs in zip(cases, taken, strict=True):
            gc.collect()
            pairs.append((await case.ours(), await case.yardstick()))
    info = await client.info("server")
    await client.aclose()
    await store.close()
    results: list[dict[str, Any]] = []
    for case, (_, *pairs) in zip(cases, taken, strict=True):
        row: dict[str, Any] = {"name": case.name, "setting": case.setting, "yardstick": case.theirs}
        row["us"], row["yardstick_us"] = (round(median(us), 2) for us in zip(*pairs, strict=True))
        row["ratio"] = round(median(us / theirs for us, theirs in pairs), 3)
        results.append(row)
    software = {name: version(name) for name in PACKAGES}
    number = info.get("valkey_version", info["redis_version"])
    software["server"] = f"{info.get('server_name', 'redis')} {number}"
    software["python"] = platform.python_version()
    return {"rounds": rounds, "software": software, "results": results}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--url", help="a Redis; without it a private one is started")
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    parser.add_argument("--operations", type=int, default=2_000, help="of each kind, per round")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    options = parser.parse_args()
    if options.rounds < 5:
        parser.error("--rounds: at least 5")
    # What `make servers` linked goes before what a wheel put into the environment.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.prefix, "servers")), os.environ["PATH"]])
    url = options.url or f"unix://{ensure_server('benchmarks')}"
    report = asyncio.run(measure(url, options.rounds, options.operations))
    print(", ".join(f"{name} {number}" for name, number in report["software"].items()))
    print(f"Medians of {options.rounds} interleaved rounds.\n")
    print(f"{'':8}{'':24}{'ratio':>7}{'µs':>9}   yardstick")
    for row in report["results"]:
        figures = f"{row['ratio']:7.2f}{row['us']:9.1f}{row['yardstick_us']:9.1f}"
        print(f"{row['name']:8}{row['setting']:24}{figures} {row['yardstick']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
