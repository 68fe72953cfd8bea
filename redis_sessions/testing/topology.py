"""Real Redis or Valkey servers on this machine, without Docker: for tests and to try things out.

    python -m redis_sessions.testing.topology sentinel

starts them, prints the URL and the processes, and ends everything on Ctrl-C or SIGTERM. In tests
each is a context manager:

    with cluster(primaries=3, replicas=1) as topology:
        replica = topology.replicas_of(topology.slot_owner("session:x"))[0]
        topology.failover(replica)

They are ready when the block begins. Data isn't kept on disk unless `append_only` is set: a node
that is stopped and started again comes back on its port, and empty. Unix only.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NoReturn

from redis_sessions.errors import ConfigurationError
from redis_sessions.testing.topologies.certificates import Certificates
from redis_sessions.testing.topologies.cluster import ClusterTopology, cluster
from redis_sessions.testing.topologies.processes import Node, TopologyError, find_binary
from redis_sessions.testing.topologies.replication import (
    SentinelTopology,
    TlsTopology,
    Topology,
    acl,
    replicas,
    sentinel,
    single,
    tls,
)

__all__ = [
    "Certificates",
    "ClusterTopology",
    "Node",
    "SentinelTopology",
    "TlsTopology",
    "Topology",
    "TopologyError",
    "acl",
    "cluster",
    "find_binary",
    "main",
    "replicas",
    "sentinel",
    "single",
    "tls",
]

_KINDS: Final = {
    "single": single,
    "replicas": replicas,
    "sentinel": sentinel,
    "cluster": cluster,
    "tls": tls,
    "tls-sentinel": partial(sentinel, tls=True),
    "tls-cluster": partial(cluster, tls=True),
    "acl": acl,
}

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a topology, print what it is, and end it on SIGINT, SIGTERM or SIGHUP."""
    parser = argparse.ArgumentParser(
        prog="python -m redis_sessions.testing.topology",
        description="Start real servers on this machine, until Ctrl-C.",
    )
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("--server", help="redis, valkey, or the path of a server's program")
    given = parser.parse_args(arguments)
    for number in _ENDING:
        signal.signal(number, _interrupt)
    kind: Any = _KINDS[given.kind]
    try:
        with kind(server=given.server) as topology:
            _show(topology)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except (ConfigurationError, TopologyError) as exc:
        print(exc, file=sys.stderr)
        return 1


def _interrupt(*_: object) -> NoReturn:
    for number in _ENDING:  # once is enough: what follows is in order
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _show(topology: Topology | ClusterTopology) -> None:
    print(topology.url)
    for node in topology.nodes:
        print(f"{node.name} {node.address} pid {node.pid}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
