"""docker-compose.yml, as docker-compose reads it."""

import json
import subprocess
from pathlib import Path

from tests.support import ROOT


def test_compose_file_holds(docker_compose: Path) -> None:
    """It is valid, reachable from this machine alone, and keeps its data in a volume."""
    run = subprocess.run(
        [docker_compose, "-f", ROOT / "docker-compose.yml", "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    config = json.loads(run.stdout)
    redis = config["services"]["redis"]
    assert [port["host_ip"] for port in redis["ports"]] == ["127.0.0.1"]
    assert redis["healthcheck"]["test"]
    mounts = {mount["target"]: mount for mount in redis["volumes"]}
    assert mounts["/data"]["source"] in config["volumes"]
    for name in ("redis.conf", "users.acl"):
        mount = mounts[f"/usr/local/etc/redis/{name}"]
        assert Path(mount["source"]) == ROOT / "deploy" / "redis" / name
        assert mount["read_only"]
