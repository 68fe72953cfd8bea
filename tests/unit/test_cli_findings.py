"""`redis-sessions check`, its judgement: from made-up facts to findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from redis_sessions.cli.facts import Facts, Sentinels, Server
from redis_sessions.cli.finding import Finding, Level, merged
from redis_sessions.cli.findings import find
from redis_sessions.cli.trials import PARTS as ALL_PARTS

MIB = 1024 * 1024
INFO = {
    "redis_version": "8.0.2",
    "role": "master",
    "maxmemory": str(256 * MIB),
    "maxmemory_policy": "noeviction",
    "used_memory": str(MIB),
    "aof_enabled": "1",
    "aof_last_write_status": "ok",
    "rdb_last_bgsave_status": "ok",
    "master_repl_offset": "1000",
}
WELL = Server(
    "10.0.0.1:6379",
    hello={"server": "redis", "version": "8.0.2", "mode": "standalone", "role": "master"},
    info=INFO,
    config={"protected-mode": "yes", "save": ""},
    anonymous=False,
    clock=(0.001, 0.0005),
    pings=(0.001, 0.002, 0.001),
)
PARTS: dict[str, str | None] = dict.fromkeys(ALL_PARTS)
FACTS = Facts("server", tls=True, servers=[WELL], parts=PARTS)


def of(facts: Facts, check: str) -> Finding:
    """The only finding of a check."""
    (finding,) = [finding for finding in find(facts) if finding.check == check]
    return finding


def told(check: str, info: Mapping[str, str] | None = None, **changes: Any) -> Finding:
    """The finding where one server is otherwise: in lines of INFO, or in another fact."""
    server = replace(WELL, **changes)
    if info is not None:
        server = replace(server, info={**INFO, **info})
    return of(replace(FACTS, servers=[server]), check)


def test_all_is_well() -> None:
    """Every check has one finding, and none complains or gives advice."""
    findings = find(FACTS)
    assert {finding.level for finding in findings} == {Level.OK}
    assert [finding.advice for finding in findings if finding.advice] == []
    assert [finding.check for finding in findings] == [
        *("topology", "tls", "rights", *PARTS, "server"),
        *(
            "default user",
            "protected mode",
            "memory",
            "persistence",
            "replication",
            "clock",
            "latency",
        ),
    ]


def test_what_the_user_may_not_ask_is_unknown() -> None:
    """No INFO, CONFIG, TIME, PING: unknown, and no warning."""
    blind = replace(WELL, hello=None, info=None, config=None, anonymous=None, clock=None, pings=())
    levels = {f.check: f.level for f in find(replace(FACTS, servers=[blind]))}
    assert {levels.pop(name) for name in ("rights", *PARTS, "tls", "topology")} == {Level.OK}
    assert set(levels.values()) == {Level.UNKNOWN}


@pytest.mark.parametrize(
    ("info", "hello", "level", "text"),
    [
        ({"redis_version": "6.2.14"}, {}, Level.OK, "Redis 6.2.14"),
        ({"redis_version": "6.0.16"}, {}, Level.FAIL, "Redis 6.0.16"),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, {}, Level.OK, "Valkey 9.1.2"),
        ({"redis_version": "7.2.4", "valkey_version": "7.1.0"}, {}, Level.FAIL, "Valkey 7.1.0"),
    ],
)
def test_oldest_servers(info: dict[str, str], hello: Any, level: Level, text: str) -> None:
    """Redis from 6.2, Valkey from 7.2; Valkey also says a version of Redis."""
    finding = told("server", info)
    assert (finding.level, finding.text) == (level, text)


@pytest.mark.parametrize(
    ("anonymous", "address", "level"),
    [
        (False, "10.0.0.1:6379", Level.OK),
        (True, "10.0.0.1:6379", Level.FAIL),
        (True, "127.0.0.1:6379", Level.WARN),
        (True, "[::1]:6379", Level.WARN),
        (True, "unix:/run/redis", Level.WARN),
        (True, "redis.example:6379", Level.FAIL),
    ],
)
def test_default_user_without_a_password(anonymous: bool, address: str, level: Level) -> None:
    """It is a failure where a network reaches it, and on this machine a warning."""
    assert told("default user", anonymous=anonymous, address=address).level is level
    if anonymous:
        barred = told("default user", anonymous=anonymous, trespass=False, address=address)
        assert barred.level is Level.WARN


@pytest.mark.parametrize(
    ("mode", "anonymous", "address", "level"),
    [
        ("yes", True, "10.0.0.1:6379", Level.OK),
        ("no", False, "10.0.0.1:6379", Level.OK),
        ("no", True, "10.0.0.1:6379", Level.FAIL),
        ("no", None, "10.0.0.1:6379", Level.FAIL),
        ("no", True, "127.0.0.1:6379", Level.WARN),
    ],
)
def test_protected_mode(mode: str, anonymous: bool | None, address: str, level: Level) -> None:
    """It matters where the default user needs no password, or may not."""
    found = told(
        "protected mode", config={"protected-mode": mode}, anonymous=anonymous, address=address
    )
    assert found.level is level


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({}, Level.OK),
        ({"maxmemory": "0"}, Level.WARN),
        ({"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, Level.WARN),
        ({"maxmemory_policy": "allkeys-lru"}, Level.FAIL),
        ({"maxmemory_policy": "volatile-ttl"}, Level.FAIL),
        ({"used_memory": str(200 * MIB)}, Level.OK),
        ({"used_memory": str(220 * MIB)}, Level.WARN),
    ],
)
def test_memory(info: dict[str, str], level: Level) -> None:
    """A limit, no eviction, and room to spare."""
    assert told("memory", info).level is level


@pytest.mark.parametrize(
    ("info", "save", "level", "text"),
    [
        ({}, "", Level.OK, "append-only file"),
        ({"aof_last_write_status": "err"}, "", Level.FAIL, "can't be written"),
        ({"aof_enabled": "0"}, "", Level.WARN, "nothing is written"),
        ({"aof_enabled": "0"}, "3600 1", Level.WARN, "snapshots alone"),
        ({"aof_enabled": "0"}, None, Level.WARN, "no append-only file"),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "3600 1", Level.FAIL, "failed"),
        ({"loading": "1"}, "", Level.FAIL, "loading"),
    ],
)
def test_persistence(info: dict[str, str], save: str | None, level: Level, text: str) -> None:
    """What survives a restart of the server."""
    config = None if save is None else {"protected-mode": "yes", "save": save}
    finding = told("persistence", info, config=config)
    assert finding.level is level
    assert text in finding.text


def test_an_append_only_file_that_is_written_late() -> None:
    """`appendfsync no` leaves it to the system."""
    config = {"protected-mode": "yes", "save": "", "appendfsync": "no"}
    assert told("persistence", config=config).level is Level.WARN
    assert told("persistence", config={**config, "appendfsync": "always"}).level is Level.OK


@pytest.mark.parametrize(
    ("info", "level", "lags"),
    [
        ({}, Level.OK, []),
        ({"slave0": "ip=a,port=1,state=online,offset=990,lag=0"}, Level.OK, [10]),
        ({"slave0": "ip=a,port=1,state=wait_bgsave,offset=0,lag=0"}, Level.WARN, [1000]),
        (
            {
                "master_repl_offset": "5000000",
                "slave0": "ip=a,port=1,state=online,offset=5000000,lag=0",
                "slave1": "ip=b,port=1,state=online,offset=1000000,lag=4",
            },
            Level.WARN,
            [0, 4_000_000],
        ),
    ],
)
def test_replicas_and_their_lag(info: dict[str, str], level: Level, lags: list[int]) -> None:
    """How many there are and how many bytes each is behind."""
    finding = told("replication", info)
    assert finding.level is level
    assert finding.details == {"replicas": len(lags), "lag_bytes": lags}


def test_a_replica_alone() -> None:
    """A URL that leads to a replica can't be written to; with others named it is in its place."""
    server = replace(WELL, info={**INFO, "role": "slave", "master_link_status": "up"})
    assert of(replace(FACTS, servers=[server]), "topology").level is Level.FAIL
    assert of(replace(FACTS, servers=[WELL, server]), "topology").level is Level.OK

    lost = replace(server, info={**INFO, "role": "slave", "master_link_status": "down"})
    replication = [f for f in find(replace(FACTS, servers=[WELL, lost])) if f.level is Level.FAIL]
    assert [f.check for f in replication] == ["replication"]


@pytest.mark.parametrize(
    ("sentinels", "level"),
    [
        (Sentinels(asked=3, answered=3, others=2, quorum=2, replicas=2), Level.OK),
        (Sentinels(asked=3, answered=2, others=2, quorum=2, replicas=2), Level.WARN),
        (Sentinels(asked=1, answered=1, others=0, quorum=1, replicas=1), Level.WARN),
        (Sentinels(asked=3, answered=3, others=2, quorum=2, replicas=0), Level.FAIL),
        (Sentinels(asked=3, answered=3, others=2, quorum=2, replicas=0, lost=2), Level.FAIL),
        (Sentinels(asked=3, answered=3, others=2, quorum=4, replicas=2), Level.FAIL),
        (Sentinels(asked=1, answered=1, others=2, quorum=2, replicas=2, away=[]), Level.OK),
        (Sentinels(asked=1, answered=1, others=2, quorum=2, replicas=2, away=["b"]), Level.WARN),
        (Sentinels(asked=1, answered=1, others=2, quorum=3, replicas=2, away=["b"]), Level.FAIL),
        (Sentinels(asked=1, answered=1, others=2, quorum=1, replicas=2, away="bc"), Level.FAIL),
        (Sentinels(asked=1, answered=1, others=2, quorum=2, replicas=2), Level.UNKNOWN),
    ],
)
def test_sentinels(sentinels: Sentinels, level: Level) -> None:
    """As many that answer as a failover needs, those too that the URL doesn't name; a replica."""
    facts = replace(FACTS, kind="sentinel", sentinels=sentinels)
    assert of(facts, "topology").level is level


def test_no_replicas_behind_sentinels() -> None:
    """The primary knows of none: nobody can take over. By itself it needn't have any."""
    facts = replace(FACTS, kind="sentinel", sentinels=Sentinels(3, 3, 2, quorum=2, replicas=1))
    assert of(facts, "replication").level is Level.FAIL
    assert of(FACTS, "replication").level is Level.OK


@pytest.mark.parametrize(
    ("info", "level"),
    [
        ({"role": "slave", "master_link_status": "up", "master_replid": "a"}, Level.OK),
        ({"role": "slave", "master_link_status": "up", "master_replid": "b"}, Level.FAIL),
        ({"role": "slave", "master_link_status": "down", "master_replid": "b"}, Level.OK),
        ({"role": "master", "master_replid": "b"}, Level.FAIL),
    ],
)
def test_what_is_named_as_a_replica(info: dict[str, str], level: Level) -> None:
    """It must be one, and of the first server."""
    first = replace(WELL, place="primary", info={**INFO, "master_replid": "a"})
    other = replace(WELL, address="10.0.0.2:6379", place="replica", info={**INFO, **info})
    assert of(replace(FACTS, servers=[first, other]), "topology").level is level


def test_a_prefix_with_a_hash_tag() -> None:
    """All sessions are then on one shard."""
    shards = {f"10.0.0.{number}:6379": 1 for number in (1, 2, 3)}
    servers = [replace(WELL, address=address) for address in shards]
    facts = replace(
        FACTS, kind="cluster", slots=16384, shards=shards, servers=servers, one_slot=True
    )
    found = [f for f in find(facts) if f.level is Level.WARN]
    assert [(f.check, "hash tag" in f.text) for f in found] == [("topology", True)]


@pytest.mark.parametrize(
    ("slots", "copies", "level"),
    [
        (16384, [1, 1, 1], Level.OK),
        (16384, [1, 0, 1], Level.WARN),
        (16384, [1, 1], Level.WARN),
        (16000, [1, 1, 1], Level.FAIL),
    ],
)
def test_cluster(slots: int, copies: list[int], level: Level) -> None:
    """Every slot is served, and every primary has a replica."""
    node = replace(WELL, hello={**(WELL.hello or {}), "mode": "cluster"})
    shards = {f"10.0.0.{number}:6379": count for number, count in enumerate(copies, 1)}
    facts = replace(FACTS, kind="cluster", slots=slots, shards=shards)
    servers = [replace(node, address=address) for address in shards]
    assert of(replace(facts, servers=servers), "topology").level is level


def test_replicas_that_the_primary_alone_knows() -> None:
    """A Cluster that was never written to tells of no replicas; its primaries count them."""
    shards = {f"10.0.0.{number}:6379": 0 for number in (1, 2, 3)}
    node = replace(WELL, info={**INFO, "connected_slaves": "1"})
    servers = [replace(node, address=address) for address in shards]
    facts = replace(FACTS, kind="cluster", slots=16384, shards=shards, servers=servers)
    assert of(facts, "topology").details["replicas"] == 3


@pytest.mark.parametrize(("mode", "word"), [("cluster", "cluster"), ("sentinel", "sentinel")])
def test_the_wrong_scheme(mode: str, word: str) -> None:
    """A plain URL that leads to a Cluster or to a Sentinel."""
    finding = told("topology", hello={"mode": mode, "role": "master", "version": "8.0.2"})
    assert finding.level is Level.FAIL
    assert f"redis+{word}://" in finding.advice


@pytest.mark.parametrize(
    ("address", "tls", "verified", "level"),
    [
        ("10.0.0.1:6379", True, True, Level.OK),
        ("10.0.0.1:6379", True, False, Level.WARN),
        ("10.0.0.1:6379", False, True, Level.WARN),
        ("localhost:6379", False, True, Level.OK),
        ("embedded", False, True, Level.OK),
    ],
)
def test_tls(address: str, tls: bool, verified: bool, level: Level) -> None:
    """Wanted wherever a network is between, and with the certificate checked."""
    servers = [replace(WELL, address=address)]
    facts = replace(FACTS, servers=servers, tls=tls, verified=verified)
    assert of(facts, "tls").level is level


@pytest.mark.parametrize(
    ("clock", "level"),
    [
        ((0.5, 0.001), Level.OK),
        ((-6.0, 0.01), Level.WARN),
        ((6.0, 0.01), Level.WARN),
        ((6.0, 1.5), Level.OK),  # it may be the way that took so long
    ],
)
def test_clock(clock: tuple[float, float], level: Level) -> None:
    """A difference counts as far as it is certain."""
    assert told("clock", clock=clock).level is level


def test_a_clock_that_is_off_is_told_with_both_times() -> None:
    """So that one sees which of them is wrong."""
    finding = told("clock", clock=(-3600.0, 0.01), asked_at=1_800_000_000.0)
    assert "it says 2027-01-15 07:00:00 UTC, and this machine 2027-01-15 08:00:00" in finding.text


@pytest.mark.parametrize(
    ("pings", "level"),
    [
        ((0.001, 0.001, 0.05), Level.OK),
        ((0.01, 0.01), Level.WARN),
        ((0.001, 0.001, 0.3), Level.WARN),
    ],
)
def test_latency(pings: tuple[float, ...], level: Level) -> None:
    """The median, and the slowest."""
    assert told("latency", pings=pings).level is level


def test_a_server_that_is_away() -> None:
    """It has one finding; the others are judged all the same."""
    away = Server("10.0.0.2:6379", error="refused")
    findings = find(replace(FACTS, servers=[WELL, away]))
    assert [f.text for f in findings if f.server == away.address] == ["refused"]
    assert max(f.level for f in findings) is Level.FAIL
    assert [f.check for f in find(replace(FACTS, servers=[away]))] == ["connection"]
    copy = replace(away, place="replica")
    assert max(f.level for f in find(replace(FACTS, servers=[WELL, copy]))) is Level.WARN
    nothing = find(replace(FACTS, servers=[], unreachable="no Sentinel answers"))
    assert [(f.check, f.text) for f in nothing] == [("connection", "no Sentinel answers")]


def test_a_dry_run_that_failed() -> None:
    """What the store said is shown, and what to read."""
    found = of(replace(FACTS, rights="no"), "rights")
    assert (found.level, found.text) == (Level.FAIL, "no")
    assert "redis-sessions acl" in found.advice


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_does_not_work(part: str) -> None:
    """It is a warning, since an application needn't use it; a failure if it is named as used."""
    facts = replace(FACTS, parts={**PARTS, part: "no"})
    warned, failed = of(facts, part), of(replace(facts, uses=(part,)), part)
    assert (warned.level, failed.level) == (Level.WARN, Level.FAIL)
    assert warned.text.endswith(": no")
    assert failed.text == warned.text
    assert f"--uses {part}" in warned.advice
    assert "--uses" not in failed.advice
    assert all("redis-sessions acl" in finding.advice for finding in (warned, failed))


def test_parts_that_were_not_tried() -> None:
    """They have no line."""
    lines = {finding.check for finding in find(replace(FACTS, parts={}))}
    assert not lines & set(PARTS)


def test_the_same_of_several_is_one_line() -> None:
    """Findings that differ in the server alone are merged; others stay apart."""
    other = replace(WELL, address="10.0.0.2:6379", info={**INFO, "maxmemory": "0"})
    lines = merged(find(replace(FACTS, servers=[WELL, other])))
    assert [f.server for f in lines if f.check == "server"] == ["10.0.0.1:6379, 10.0.0.2:6379"]
    assert len([f for f in lines if f.check == "memory"]) == 2
