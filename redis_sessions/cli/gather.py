"""Asks the servers of a deployment what `findings` judges: over connections of its own.

Each question has a deadline, and one that the server refuses leaves its fact unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from secrets import token_hex
from typing import Any, Final, TypeVar, cast

from redis.asyncio import ConnectionPool, Redis
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from redis_sessions.cli.facts import Facts, Sentinels, Server
from redis_sessions.cli.trials import try_parts, try_sessions
from redis_sessions.connect.connector import Connector, deployment_of, safe_on_connect
from redis_sessions.connect.deployment import Address, Deployment, shown
from redis_sessions.connect.failures import NO_DATABASE
from redis_sessions.connect.nodes import SLOTS, slot_of, tags
from redis_sessions.connect.tls import tls_class
from redis_sessions.stores.redis import RedisStore

__all__ = ["gather"]

T = TypeVar("T")
Ask = Callable[..., Awaitable[Any]]

_BRIEF: Final = 1000  # milliseconds until what the dry run wrote is gone
_OF_A_USER: Final = ("username", "password", "credential_provider", "db", "client_name")
_RANGE = tuple[int, int, list[Address]]  # of slots, with the primary first
_State = Mapping[str, Any]  # of one server, as a Sentinel sees it


async def gather(
    url: str, *, prefix: str, timeout: float, pings: int = 20, uses: Sequence[str] = ()
) -> Facts:
    """All facts about the store at this URL; `ConfigurationError` if it can't be one.

    `timeout`: seconds for each question. `uses`: what is tried beside sessions; by default all.
    """
    store = RedisStore(url, prefix=prefix, timeout=timeout)  # refuses what can't work
    deployment = deployment_of(url)
    verified = _verified(deployment.arguments)
    found = Facts(deployment.kind, deployment.tls, verified=verified, uses=uses)
    asker = _Asker(deployment, timeout, prefix, pings)
    try:
        with _as_redis_answers():
            found, ranges = await asker.layout(found)
        slot = slot_of(prefix)
        if ranges and slot is not None:
            found = replace(found, one_slot=True)
            ranges = [(slot, slot, nodes) for low, high, nodes in ranges if low <= slot <= high]
        servers = await asyncio.gather(*(asker.server(s) for s in found.servers))
        found = replace(found, servers=servers)
        if any(server.error is None for server in servers):
            rights = await try_sessions(store, ids := _ids(store, ranges), _BRIEF)
            found = replace(found, rights=rights, parts=await try_parts(store, ids, uses, _BRIEF))
    except (RedisError, OSError, TimeoutError) as exc:
        found = replace(found, unreachable=asker.said(exc))
    finally:
        await store.close()
    return found


def _verified(arguments: Mapping[str, Any]) -> bool:
    checked = arguments.get("ssl_cert_reqs") != "none"
    return checked and bool(arguments.get("ssl_check_hostname", True))


class _Asker:
    """Knows how to reach the deployment's servers."""

    def __init__(self, deployment: Deployment, timeout: float, prefix: str, pings: int) -> None:
        self._deployment = deployment
        self._connector = Connector(deployment, timeout)
        self._timeout = timeout
        self._prefix = prefix
        self._pings = pings

    def said(self, exc: Exception) -> str:
        """Why it can't be reached, without what may be secret."""
        if isinstance(exc, TimeoutError):
            return f"{self._connector.where}: no answer within {self._timeout:g} s"
        return f"{self._connector.where}: {exc}"

    async def layout(self, found: Facts) -> tuple[Facts, Sequence[_RANGE]]:
        """The servers that there are, named only; with the slots of a Cluster."""
        here = self._deployment
        if here.kind == "sentinel":
            return await self._watched(found), ()
        if here.kind == "cluster":
            return await self._sharded(found)
        return replace(found, servers=self._servers(here.hosts or (None,))), ()

    def _servers(self, addresses: Iterable[Address | None]) -> list[Server]:
        """The primary, and its replicas."""
        places = chain(["primary"], repeat("replica"))
        pairs = zip(addresses, places, strict=False)
        return [Server(self._name(address), place) for address, place in pairs]

    def _name(self, address: Address | None) -> str:
        if address is None:
            return "embedded" if self._connector.starts_server else self._connector.where
        return shown(address)

    async def _watched(self, found: Facts) -> Facts:
        answers = await asyncio.gather(
            *(self._sentinel(host) for host in self._deployment.hosts), return_exceptions=True
        )
        told = [answer for answer in answers if not isinstance(answer, BaseException)]
        if not told:
            raise next(answer for answer in answers if isinstance(answer, Exception))
        state, copies, peers = told[0]
        lost = [copy for copy in copies if _is_lost(copy)]
        sentinels = Sentinels(
            asked=len(answers),
            answered=len(told),
            others=int(state["num-other-sentinels"]),
            quorum=int(state["quorum"]),
            replicas=len(copies) - len(lost),
            lost=len(lost),
            away=None if peers is None else [self._name(_place(p)) for p in peers if _is_lost(p)],
        )
        servers = self._servers(_place(one) for one in (state, *copies))
        return replace(found, servers=servers, sentinels=sentinels)

    async def _sentinel(self, address: Address) -> tuple[_State, list[_State], list[_State] | None]:
        """What it says of the primary, of the replicas, and of the other Sentinels."""
        host, port = address
        given: dict[str, Any] = {**self._deployment.sentinel_arguments, "decode_responses": True}
        given["redis_connect_func"] = safe_on_connect()
        pool = ConnectionPool(
            tls_class(self._deployment.sentinel_class), host=host, port=port, **given
        )
        async with Redis.from_pool(pool) as sentinel, asyncio.timeout(self._timeout):
            client: Any = sentinel
            state: Any = await client.sentinel_masters()
            name = self._deployment.name
            if name not in state:
                raise RedisConnectionError(f"the Sentinels watch nothing that is called {name!r}")
            # Not sentinel_slaves() and its like, which raise a TypeError in redis-py 6.4 to 7.0.
            copies: Any = await client.execute_command("SENTINEL SLAVES", name)
            peers: Any = await _or_none(client.execute_command("SENTINEL SENTINELS", name))
            return state[name], copies, peers

    async def _sharded(self, found: Facts) -> tuple[Facts, Sequence[_RANGE]]:
        last: Exception = RedisConnectionError("no node answers")
        for host in self._deployment.hosts:
            try:
                ranges = await self._with(host, _slots)
            except (RedisError, OSError, TimeoutError) as exc:
                last = exc
                continue
            ranges = [
                (low, high, [(name or host[0], port) for name, port in nodes])
                for low, high, nodes in ranges
            ]
            shards = {self._name(nodes[0]): len(nodes) - 1 for _, _, nodes in ranges}
            groups = dict.fromkeys(tuple(nodes) for _, _, nodes in ranges)
            servers = [server for nodes in groups for server in self._servers(nodes)]
            return replace(
                found,
                servers=servers or [Server(self._name(host))],
                slots=sum(high - low + 1 for low, high, _ in ranges),
                shards=shards,
            ), ranges
        raise last

    async def _with(
        self,
        address: Address | None,
        questions: Callable[[Ask], Awaitable[T]],
        deployment: Deployment | None = None,
    ) -> T:
        """What is asked over a connection to one server."""
        connector = Connector(deployment or self._deployment, self._timeout, address)
        pool = await connector.open()
        client: Any = Redis(connection_pool=pool)

        async def ask(*command: Any) -> Any:
            async with asyncio.timeout(self._timeout):
                return await client.execute_command(*command)

        try:
            with _as_redis_answers():
                async with asyncio.timeout(self._timeout):
                    await _find_database(pool)
                return await questions(ask)
        finally:
            await connector.close(pool)

    async def server(self, named: Server) -> Server:
        """All that one server says of itself."""
        address: Address | None = None
        if self._deployment.hosts:
            host, _, port = named.address.rpartition(":")
            address = host.strip("[]"), int(port)
        try:
            known = await self._with(address, partial(self._questions, named))
            anonymous, trespass = await self._anonymous(address)
            return replace(known, anonymous=anonymous, trespass=trespass)
        except (RedisError, OSError, TimeoutError) as exc:
            why = f"no answer within {self._timeout:g} s" if isinstance(exc, TimeoutError) else exc
            return replace(named, error=str(why))

    async def _questions(self, named: Server, ask: Ask) -> Server:
        pings = [await _ping(ask) for _ in range(self._pings + 1)][1:]  # the first one connects
        return replace(
            named,
            hello=_texts(await _or_none(ask("HELLO"))),
            info=_texts(await _or_none(ask("INFO", "everything"))),
            config=_texts(await _config(ask)),
            clock=await _clock(ask),
            asked_at=time.time(),
            pings=[ping for ping in pings if ping is not None],
            unread=self._deployment.reads_replicas and not await self._may_read(ask),
        )

    async def _may_read(self, ask: Ask) -> bool:
        """Whether the user has what reading from replicas needs, on them and on their primary."""
        try:
            await ask("INFO", "replication")
            if self._deployment.kind == "cluster":
                await ask("READONLY")
        except NoPermissionError:
            return False
        return True

    async def _anonymous(self, address: Address | None) -> tuple[bool | None, bool]:
        """Whether one gets in without a password, and to the keys."""
        given = {k: v for k, v in self._deployment.arguments.items() if k not in _OF_A_USER}
        nobody = replace(self._deployment, arguments=given)
        try:
            return True, await self._with(address, self._trespass, nobody)
        except AuthenticationError:
            return False, False
        except RedisConnectionError as exc:
            return (False if "DENIED" in str(exc) else None), False  # protected mode

    async def _trespass(self, ask: Ask) -> bool:
        key = f"{self._prefix}check:{token_hex(8)}"  # there is none, and none comes of it
        for command in (("GET", key), ("SET", key, "", "XX"), ("DEL", key)):
            try:
                await ask(*command)
            except NoPermissionError:
                continue
            except ResponseError:  # it is for another reason that it isn't done: MOVED, READONLY
                return True
            return True
        return False


async def _find_database(pool: ConnectionPool) -> None:
    """Raise if there is none of this number, which each question would be answered with."""
    try:
        await pool.release(await pool.get_connection())
    except ResponseError as exc:
        if NO_DATABASE in str(exc):
            raise RedisConnectionError(str(exc)) from None


@contextmanager
def _as_redis_answers() -> Generator[None]:
    """What can't be made sense of is an error like any other."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError):
        raise RedisConnectionError("what answers isn't a Redis") from None


def _place(state: _State) -> Address:
    return state["ip"], int(state["port"])


def _is_lost(state: _State) -> bool:
    return bool(state["is_sdown"] or state["is_odown"])


async def _slots(ask: Ask) -> list[_RANGE]:
    reply = await ask("CLUSTER SLOTS")
    return [(low, high, [_address(node) for node in nodes]) for low, high, *nodes in reply]


def _address(node: Sequence[Any]) -> Address:
    name = _text(node[0] or "")
    return ("" if name == "?" else name), int(node[1])  # it has no hostname, or doesn't say it


async def _or_none(question: Awaitable[T]) -> T | None:
    try:
        return await question
    except ResponseError:
        return None


async def _config(ask: Ask) -> Any:
    """Each asked by itself: servers before 7.0 take one name."""
    found: dict[Any, Any] = {}
    for name in ("protected-mode", "save", "appendfsync"):
        reply = await _or_none(ask("CONFIG GET", name))
        if reply is None:
            return None
        found.update(_texts(reply) or {})
    return found


async def _ping(ask: Ask) -> float | None:
    before = time.perf_counter()
    pong = await _or_none(ask("PING"))
    if pong is None:
        return None
    if pong is not True:
        raise ValueError("no PONG")
    return time.perf_counter() - before


async def _clock(ask: Ask) -> tuple[float, float] | None:
    """Of several tries the one with the shortest round trip: it bounds the error."""
    found: list[tuple[float, float]] = []
    for _ in range(5):
        began, before = time.time(), time.perf_counter()
        reply = await _or_none(ask("TIME"))
        if reply is None:
            return None
        half = (time.perf_counter() - before) / 2
        found.append((half, int(reply[0]) + int(reply[1]) / 1e6 - (began + half)))
    half, ahead = min(found)
    return ahead, half


def _texts(reply: Any) -> dict[str, str] | None:
    if reply is None:
        return None
    pairs = _pairs(reply)
    if pairs is None:
        pairs = zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    if (pairs := _pairs(value)) is not None:  # redis-py's own reading of "offset=10,lag=0"
        return ",".join(f"{name}={text}" for name, text in pairs)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _pairs(value: Any) -> Iterable[tuple[Any, Any]] | None:
    return cast("Mapping[Any, Any]", value).items() if isinstance(value, dict) else None


def _ids(store: RedisStore, ranges: Sequence[_RANGE]) -> list[str]:
    """One on each primary."""
    owners: list[Address | None] = [None] * SLOTS
    for first, last, (primary, *_) in ranges:
        owners[first : last + 1] = [primary] * (last - first + 1)
    parts = tags(store.prefix, owners) if ranges else [token_hex(8)]
    return [f"check:{part}" for part in parts]
