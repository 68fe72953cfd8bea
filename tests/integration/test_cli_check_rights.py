"""`redis-sessions check` as a user who lacks one right of the application's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from redis import Redis

from redis_sessions.cli.acl import Role, acl_line, rules
from redis_sessions.testing.topology import ClusterTopology
from tests.integration.check_command import SECRET, levels
from tests.support import ROOT
from tests.support.servers import Server, StartServer

NOT_ASKED_FOR = {"+select", "+client|setname", "+client|setinfo"}
"""What a URL asks for that names a database or a client, or a client of one's own."""
PING = "+ping"
"""Without it the latency is unknown, and nothing else is worse."""
NOTICES = {"+client|tracking", "+role"}
ENDS = {"+zadd", "+zrange", "+zrem", "+zscore"}
MESSAGES = {
    f"+{kind}{verb}" for kind in ("", "s", "un", "sun") for verb in ("publish", "subscribe")
}
WAIT = {"+wait"}


def parts_without(rule: str) -> set[str]:
    """What doesn't work without this right."""
    parts = {"notices": NOTICES, "on_expired": ENDS, "messages": MESSAGES, "wait_replicas": WAIT}
    return {part for part, needed in parts.items() if rule in needed} or {"rights"}


def assert_noticed(rule: str, found: Callable[..., dict[str, dict[str, Any]]]) -> None:
    """Sessions fail without the right, or the part that needs it doesn't count until it is used."""
    for part in parts_without(rule):
        if part == "rights":
            assert found(status=2)[part]["level"] == "fail", rule
            continue
        if part != "wait_replicas":
            asked = found()
            assert asked[part]["level"] == "warn", rule
            assert asked["rights"]["level"] == "ok", rule
        used = found("--uses", part, status=2)[part]
        assert used["level"] == "fail", rule
        if rule not in ENDS:  # Redis 6.2 doesn't say what a script may not call
            assert rule.removeprefix("+").split("|")[0] in used["text"].lower()


def of_use(given: Iterable[str]) -> list[str]:
    return [rule for rule in given if rule[0] == "+" and rule not in {*NOT_ASKED_FOR, PING}]


def test_each_right_on_one_server(server: Server, prefix: str) -> None:
    """Also that to load scripts, when the server knows them all, and that to unsubscribe."""
    name = prefix.replace(":", "-")
    url = f"redis://{name}:{SECRET}@127.0.0.1:{server.port}/0"
    whole = [*rules(Role.APP, prefix=prefix, replicas=True)]

    def found(*args: str, status: int | None = None) -> dict[str, dict[str, Any]]:
        return levels(url, "--prefix", prefix, *args, status=status)

    with Redis(port=server.port, protocol=2) as client:
        for rule in of_use(whole):
            given = [other for other in whole if other != rule]
            client.execute_command(*acl_line(name, f">{SECRET}", given).split())
            if rule == "+info":
                assert found()["memory"]["level"] == "unknown"
            else:
                assert_noticed(rule, found)
        client.execute_command("ACL", "DELUSER", name)


def test_each_right_in_a_cluster(cluster_topology: ClusterTopology, prefix: str) -> None:
    """What only a Cluster needs, at each node: ASKING is needed while a slot moves."""
    name = prefix.replace(":", "-")
    url = cluster_topology.url.replace("//", f"//{name}:{SECRET}@")
    whole = rules(Role.APP, prefix=prefix, cluster=True, replicas=True)
    alone = rules(Role.APP, prefix=prefix, replicas=True)

    def found(*args: str, status: int | None = None) -> dict[str, dict[str, Any]]:
        return levels(url, "--prefix", prefix, *args, status=status)

    for rule in of_use(rule for rule in whole if rule not in alone):
        for node in cluster_topology.nodes:
            given = [other for other in whole if other != rule]
            node.ask(*acl_line(name, f">{SECRET}", given).split())
        if rule == "+cluster|slots":
            assert found(status=2)["connection"]["level"] == "fail"
        elif rule != "+readonly":  # which is for a URL with replicas=read
            assert_noticed(rule, found)
    for node in cluster_topology.nodes:
        node.ask("ACL", "DELUSER", name)


def test_a_right_that_only_a_part_needs(start_server: StartServer, tmp_path: Path) -> None:
    """It is a warning that leaves the exit status as it is, until `--uses` names the part."""
    lacking = {"messages": "+publish", "on_expired": "+zadd", "notices": "+role"}
    given = [rule for rule in rules(Role.APP, prefix="session:") if rule not in lacking.values()]
    line = acl_line("app", f">{SECRET}", given, file=True)
    (users := tmp_path / "users.acl").write_text(f"user default off resetpass\n{line}\n")
    config = ROOT / "deploy" / "redis" / "redis.conf"
    server = start_server("--aclfile", str(users), kind="redis", config=config)
    url = f"redis://app:{SECRET}@127.0.0.1:{server.port}/0"

    found = levels(url, status=0)
    assert {name for name, one in found.items() if one["level"] == "warn"} == set(lacking)
    for part in lacking:
        assert f"doesn't count without --uses {part}" in found[part]["advice"]
        used = levels(url, "--uses", part, "--uses", "leader", status=2)
        assert {name: used[name]["level"] for name in (part, "leader")} == {
            part: "fail",
            "leader": "ok",
        }
        assert not (lacking.keys() - {part}) & used.keys()
    assert not lacking.keys() & levels(url, "--uses", "sessions", status=0).keys()
