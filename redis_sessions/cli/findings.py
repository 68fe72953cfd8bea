"""From gathered facts to findings: what is well, what isn't, and what to do about it.

Pure functions: `gather` asks the servers, and `commands` prints. What a user may not ask is
`unknown`, and no fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from statistics import median
from typing import Final

from redis_sessions.cli.facts import Facts, Sentinels, Server
from redis_sessions.cli.finding import Finding, Level, unknown
from redis_sessions.connect.failures import CREDENTIALS, NO_DATABASE

__all__ = ["find"]


def find(facts: Facts) -> list[Finding]:
    """All findings, in the order in which to read them."""
    if facts.unreachable is not None:
        return [Finding("connection", Level.FAIL, facts.unreachable, "see that it runs, and where")]
    found = _each(facts, _connection)
    if all(server.error is not None for server in facts.servers):
        return found  # there is nothing else to judge
    found += [*_topology(facts), *_tls(facts), *_rights(facts), *_parts(facts)]
    checks = [_version, _access, _protected_mode, _eviction, _persistence, _replication]
    if facts.kind == "embedded":  # nothing of it is to be configured
        text = "a server for development, which only this user reaches: it keeps nothing on disk"
        found.append(Finding("embedded", Level.OK, text))
        checks = [_version]
    for check in checks:
        found += _each(facts, check)
    return [*found, *_clock(facts), *_latency(facts)]


def _each(facts: Facts, check: Callable[[Facts, Server], Finding | None]) -> list[Finding]:
    pairs = [(server, check(facts, server)) for server in facts.servers]
    return [
        replace(found, server=server.address)
        for server, found in pairs
        if found is not None and (server.error is None or found.check == "connection")
    ]


# -- where it is, and who gets there


def _connection(_: Facts, server: Server) -> Finding | None:
    if server.error is None:
        return None
    if NO_DATABASE in server.error:
        advice = "the URL names a database that isn't there: write 0, or raise `databases`"
        return Finding("connection", Level.FAIL, server.error, advice)
    if server.role == "replica":
        advice = "it is a replica: nobody is without sessions, but it can't take over"
        return Finding("connection", Level.WARN, server.error, advice)
    advice = "its sessions are unavailable: see that it runs, and whether the URL is right"
    if any(word in server.error for word in CREDENTIALS):
        advice = "its sessions are unavailable: correct the user and password in the URL"
    return Finding("connection", Level.FAIL, server.error, advice)


def _version(_: Facts, server: Server) -> Finding:
    said = {**(server.hello or {}), **(server.info or {})}
    valkey = "valkey_version" in said or said.get("server") == "valkey"
    number = str(said.get("valkey_version") or said.get("redis_version") or said.get("version", ""))
    name, least = ("Valkey", (7, 2)) if valkey else ("Redis", (6, 2))
    parts = tuple(int(part) for part in re.findall(r"\d+", number)[:2])
    if not parts:
        return unknown("server", "HELLO, INFO")
    if parts < least:
        wanted = ".".join(map(str, least))
        return Finding("server", Level.FAIL, f"{name} {number}", f"{name} {wanted} is the oldest")
    return Finding("server", Level.OK, f"{name} {number}", details={"version": number})


def _topology(facts: Facts) -> list[Finding]:
    reached = [server for server in facts.servers if server.error is None]
    found = [_mode(facts, server) for server in reached]
    if facts.sentinels is not None:
        found.append(_sentinels(facts.sentinels))
    if facts.kind == "cluster":
        found.append(_cluster(facts))
    if facts.one_slot:
        text = "the prefix has a hash tag: all sessions lie on one shard"
        found.append(Finding("topology", Level.WARN, text, "write a prefix without {…}"))
    problems = [finding for finding in found if finding is not None]
    if problems:
        return problems
    roles = [server.role for server in reached]
    details = {"primaries": roles.count("primary"), "replicas": roles.count("replica")}
    text = "primaries: {primaries}, replicas: {replicas}".format(**details)
    if len(reached) == 1:
        text = "one server: while it is away, requests get 503"
    return [Finding("topology", Level.OK, text, details=details)]


def _mode(facts: Facts, server: Server) -> Finding | None:
    mode = (server.hello or {}).get("mode", "")
    if mode == "sentinel":
        advice = "write redis+sentinel://"
    elif mode == "cluster" and facts.kind != "cluster":
        advice = "write redis+cluster://"
    elif facts.kind == "server" and facts.servers[0] is server and server.role == "replica":
        return Finding(
            "topology", Level.FAIL, "it is a replica, and takes no writes",
            "name its primary, or the Sentinels (redis+sentinel://)", server.address,
        )  # fmt: skip
    elif server.place == "replica" and (text := _strange(facts, server)):
        advice = "name the replicas of the primary: others have other sessions"
        return Finding("topology", Level.FAIL, text, advice, server.address)
    else:
        return None
    text = f"the server is one of mode {mode}, and the URL says {facts.kind}"
    return Finding("topology", Level.FAIL, text, advice, server.address)


def _strange(facts: Facts, server: Server) -> str:
    """Why it isn't the replica that it is named as."""
    if server.role == "primary":
        return "it is named as a replica, and is a primary"
    first, own = (one.info or {} for one in (facts.servers[0], server))
    linked = own.get("master_link_status") == "up" and "master_replid" in first
    if facts.kind == "server" and linked and own.get("master_replid") != first["master_replid"]:
        return "it is a replica of another primary than the first"
    return ""


def _sentinels(told: Sentinels) -> Finding:
    known = told.others + 1
    text = f"Sentinels: {told.answered} of {told.asked} answer; quorum {told.quorum} of {known}"
    if told.away:
        text = f"{text}; away: {', '.join(told.away)}"
    details = {"sentinels": known, "quorum": told.quorum, "replicas": told.replicas}
    level, advice = Level.OK, ""
    if told.replicas == 0:
        what = "start the replicas" if told.lost else "add one"
        level, advice = Level.FAIL, f"no replica can take over: {what}"
    elif told.quorum > known:
        level = Level.FAIL
        advice = f"they never agree on a failover: SENTINEL SET … quorum {known // 2 + 1}"
    elif known - len(told.away or ()) < max(told.quorum, known // 2 + 1):
        level = Level.FAIL
        advice = "too few are left for a failover: start them, or SENTINEL RESET if they are gone"
    elif known < 3:
        level, advice = Level.WARN, "with fewer than three the loss of one ends all failover"
    elif told.away:
        level, advice = Level.WARN, "start them, or SENTINEL RESET if they are gone"
    elif told.answered < told.asked:
        level, advice = Level.WARN, "start those that don't answer, or take them out of the URL"
    elif told.away is None and told.answered < known:
        level, text = Level.UNKNOWN, f"{text}; the user may not ask for more (SENTINEL SENTINELS)"
    return Finding("topology", level, text, advice, details=details)


def _cluster(facts: Facts) -> Finding:
    # A replica that was never written to isn't told of; its primary knows it.
    attached = {s.address: int((s.info or {}).get("connected_slaves", 0)) for s in facts.servers}
    copies = [max(told, attached.get(name, 0)) for name, told in facts.shards.items()]
    bare, primaries = copies.count(0), len(copies)
    text = f"Cluster: {primaries} primaries, {sum(copies)} replicas"
    details = {"slots": facts.slots, "primaries": primaries, "replicas": sum(copies)}
    level, advice = Level.OK, ""
    if facts.slots is not None and facts.slots < 16384:
        text = f"{text}; {16384 - facts.slots} of 16384 slots are nobody's"
        advice = "start the nodes that are away, or repair it: redis-cli --cluster fix"
        level = Level.FAIL
    elif bare:
        text = f"{text}; {bare} primaries have none"
        level, advice = Level.WARN, "add replicas: without one a primary's sessions go with it"
    elif primaries < 3:
        level, advice = Level.WARN, "with fewer than three primaries there is no majority"
    return Finding("topology", level, text, advice, details=details)


def _tls(facts: Facts) -> list[Finding]:
    if facts.tls and not facts.verified:
        text = "TLS, but anybody may pose as the server"
        return [
            Finding("tls", Level.WARN, text, "leave ssl_cert_reqs= and ssl_check_hostname= out")
        ]
    if facts.tls:
        return [Finding("tls", Level.OK, "TLS, with the server's certificate checked")]
    if all(is_local(server.address) for server in facts.servers):
        return [Finding("tls", Level.OK, "no TLS, on this machine alone")]
    text = "no TLS: the network sees ids, sealed records and the password"
    return [Finding("tls", Level.WARN, text, "write rediss://, unless the network is your own")]


def is_local(address: str) -> bool:
    """Whether it never leaves this machine."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith(("unix:", "embedded")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _access(_: Facts, server: Server) -> Finding:
    if server.anonymous is None:
        return unknown("default user", "a connection without a password")
    if not server.anonymous:
        return Finding("default user", Level.OK, "without a password nobody gets in")
    local = is_local(server.address)
    if not server.trespass:
        text = "without a password one gets in, though not to the sessions"
        return Finding("default user", Level.WARN, text, "ACL SETUSER default off")
    where = "who is on this machine" if local else "who reaches it"
    return Finding(
        "default user", Level.WARN if local else Level.FAIL,
        f"it needs no password: {where} reads, writes or deletes sessions",
        "make users (redis-sessions acl), then ACL SETUSER default off",
    )  # fmt: skip


def _protected_mode(_: Facts, server: Server) -> Finding:
    said = (server.config or {}).get("protected-mode")
    if said is None:
        return unknown("protected mode", "CONFIG GET")
    if said == "yes" or server.anonymous is False:
        return Finding("protected mode", Level.OK, said)
    level = Level.WARN if is_local(server.address) else Level.FAIL
    text = "it is off, and the default user needs no password"
    return Finding("protected mode", level, text, "protected-mode yes")


def _rights(facts: Facts) -> list[Finding]:
    advice = "see what the user lacks: redis-sessions acl prints what it needs"
    if facts.rights is not None:
        return [Finding("rights", Level.FAIL, facts.rights, advice)]
    unread = ", ".join(server.address for server in facts.servers if server.unread)
    if unread:
        text = "replicas=read does nothing: the user lacks INFO, or READONLY in a Cluster"
        advice = "redis-sessions acl --replicas prints what it needs"
        return [Finding("rights", Level.WARN, text, advice, unread)]
    text = "a record, an index and a lock were written, read and ended"
    return [Finding("rights", Level.OK, text)]


_WORKS: Final = {
    "leader": ("a lease was taken, used and released", "no process can lead"),
    "on_expired": ("ends were noted, read and removed", "on_expired= can't be used"),
    "messages": ("one was sent, and arrived", "they don't work in full"),
    "notices": (
        "the server may be asked which keys change",
        "there are no near copies, and open sockets learn of a sign-out within 5 seconds only",
    ),
    "wait_replicas": ("the server may be asked", "wait_replicas= can't be used"),
}


def _parts(facts: Facts) -> Iterable[Finding]:
    """What an application needn't use is a warning that doesn't count, unless it is used."""
    for part, why in facts.parts.items():
        well, ill = _WORKS[part]
        level, text, advice = Level.OK, well, ""
        if why is not None:
            level, text = Level.WARN, f"{ill}: {why}"
            advice = "redis-sessions acl prints what it needs"
            if part in facts.uses:
                level = Level.FAIL
            else:
                advice = f"{advice}; it doesn't count without --uses {part}"
        yield Finding(part, level, text, advice)


# -- what becomes of the sessions


def _eviction(_: Facts, server: Server) -> Finding:
    info = server.info
    if info is None or "maxmemory_policy" not in info:
        return unknown("memory", "INFO")
    policy, limit = info["maxmemory_policy"], int(info.get("maxmemory", 0))
    used = int(info.get("used_memory", 0))
    details = {"policy": policy, "maxmemory": limit, "used": used}
    level, advice = Level.OK, ""
    text = f"maxmemory {_size(limit)}, {policy}"
    if limit == 0:
        text = f"no maxmemory, {policy}"
        level, advice = Level.WARN, "set maxmemory: without it the system ends the server"
    elif policy != "noeviction":
        level, advice = Level.FAIL, "maxmemory-policy noeviction, or users are signed out"
    elif used > 0.8 * limit:
        text = f"{text}, {used / limit:.0%} used"
        level, advice = Level.WARN, "it is nearly full: changes get 503 then; add memory or shards"
    return Finding("memory", level, text, advice, details=details)


def _persistence(_: Facts, server: Server) -> Finding:
    info = server.info
    if info is None or "aof_enabled" not in info:
        return unknown("persistence", "INFO")
    snapshots = (server.config or {}).get("save")
    if info.get("loading") == "1":
        return Finding("persistence", Level.FAIL, "it is loading its data", "wait")
    if info["aof_enabled"] == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            text = "the append-only file can't be written"
            return Finding("persistence", Level.FAIL, text, "see the disk, and the server's log")
        if (server.config or {}).get("appendfsync") == "no":
            text = "append-only file, written when the system likes: a crash loses half a minute"
            return Finding("persistence", Level.WARN, text, "appendfsync everysec")
        return Finding("persistence", Level.OK, "append-only file")
    if info.get("rdb_last_bgsave_status", "ok") != "ok" and snapshots != "":
        text = "the last snapshot failed, and with it writes may be refused"
        return Finding("persistence", Level.FAIL, text, "see the disk, and the server's log")
    known = {None: "no append-only file", "": "nothing is written to disk"}
    text = known.get(snapshots, "snapshots alone: a crash loses minutes, sign-outs among them")
    return Finding("persistence", Level.WARN, text, "appendonly yes")


def _replication(facts: Facts, server: Server) -> Finding | None:
    info = server.info
    if server.role == "replica":
        if info is None or info.get("master_link_status", "up") == "up":
            return None
        text = "it has no connection to its primary"
        return Finding("replication", Level.FAIL, text, "see the replica's log, and masterauth")
    if info is None or "master_repl_offset" not in info:
        return unknown("replication", "INFO")
    offset = int(info["master_repl_offset"])
    copies = [dict(_pairs(value)) for key, value in info.items() if re.fullmatch(r"slave\d+", key)]
    away = [copy for copy in copies if copy.get("state") != "online"]
    lags = [max(0, offset - int(copy.get("offset", 0))) for copy in copies]
    details = {"replicas": len(copies), "lag_bytes": lags}
    if not copies and facts.kind == "sentinel":
        advice = "none can take over: add one, or see the replicas' logs, and masterauth"
        return Finding("replication", Level.FAIL, "no replicas", advice, details=details)
    if not copies:
        return Finding("replication", Level.OK, "no replicas", details=details)
    text = f"replicas: {len(copies)}, at most {max(lags)} bytes behind"
    level, advice = Level.OK, ""
    if away:
        level, advice = Level.WARN, f"{len(away)} of them are still synchronising"
    elif max(lags) > 1_000_000:
        level, advice = Level.WARN, "a failover now loses what they don't have yet"
    return Finding("replication", level, text, advice, details=details)


def _pairs(value: str) -> Iterable[tuple[str, str]]:
    for part in value.split(","):
        name, _, text = part.partition("=")
        yield name, text


# -- time


def _clock(facts: Facts) -> list[Finding]:
    known = [(server, *server.clock) for server in facts.servers if server.clock is not None]
    if not known:
        return [unknown("clock", "TIME")]
    server, ahead, bound = max(known, key=lambda one: abs(one[1]) - one[2])
    details = {"ahead": ahead, "bound": bound}
    text = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} this machine"
    text = f"{text}, to within {bound:.3f} s"
    if abs(ahead) - bound > 5:
        here, there = _utc(server.asked_at), _utc(server.asked_at + ahead)
        text = f"{text}: it says {there}, and this machine {here}"
        advice = "have both follow NTP: sessions go by the servers' time"
        return [Finding("clock", Level.WARN, text, advice, server.address, details)]
    return [Finding("clock", Level.OK, text, details=details)]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _latency(facts: Facts) -> list[Finding]:
    known = [server for server in facts.servers if server.pings]
    if not known:
        return [unknown("latency", "PING")]
    slowest = max(known, key=lambda server: median(server.pings))
    middle, worst = median(slowest.pings) * 1e3, max(max(s.pings) for s in known) * 1e3
    text = f"median {middle:.2f} ms, at most {worst:.2f} ms"
    details = {"median_ms": middle, "max_ms": worst}
    if middle > 5 or worst > 200:
        advice = "each request waits for it once: have server and application nearer"
        return [Finding("latency", Level.WARN, text, advice, slowest.address, details)]
    return [Finding("latency", Level.OK, text, details=details)]


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
