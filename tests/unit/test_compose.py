"""docker-compose.yml and what it includes, as docker-compose reads them."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from redis_sessions import generate_key
from redis_sessions.connect.connector import deployment_of
from tests.support import ROOT

PROFILES = ["sentinel", "cluster", "tls"]

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def config(docker_compose: Path) -> Config:
    """What docker-compose makes of the file, with these profiles."""

    def read(*profiles: str, key: str = "") -> dict[str, Any]:
        options = [part for profile in profiles for part in ("--profile", profile)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COMPOSE_")}
        run = subprocess.run(
            [
                *(str(docker_compose), "-f", str(ROOT / "docker-compose.yml"), *options),
                *("config", "--format", "json"),
            ],
            env={**environment, "SESSION_SECRET_KEY": key},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stderr == ""  # of warnings, too
        found: dict[str, Any] = json.loads(run.stdout)
        return found

    return read


def together(services: dict[str, Any], name: str) -> dict[str, Any]:
    """The service, and those that start together with it."""
    found = {name: services[name]}
    for needed in services[name].get("depends_on", {}):
        found |= together(services, needed)
    return found


def test_compose_file_holds(config: Config) -> None:
    """By itself it is the demo and one Redis, for this machine alone, with its data in a volume."""
    key = generate_key()
    found = config(key=key)
    assert set(found["services"]) == {"demo", "redis"}
    redis, demo = found["services"]["redis"], found["services"]["demo"]
    mounts = {mount["target"]: mount for mount in redis["volumes"]}
    assert mounts["/data"]["source"] in found["volumes"]
    for name, folder in (("redis.conf", "redis"), ("users.acl", "demo")):
        mount = mounts[f"/usr/local/etc/redis/{name}"]
        assert Path(mount["source"]) == ROOT / "deploy" / folder / name
        assert mount["read_only"]
    assert demo["command"][:2] == ["redis-sessions", "demo"]
    assert deployment_of(demo["command"][-1]).kind == "server"
    assert demo["environment"]["SESSION_SECRET_KEY"] == key
    dockerfile = (ROOT / demo["build"]["dockerfile"]).read_text()
    assert f"AS {demo['build']['target']}\n" in dockerfile
    assert list(together(found["services"], "demo")) == ["demo", "redis"]


def test_dockerfile_has_what_the_wheel_has() -> None:
    """What the wheel is built of is copied into the image, and isn't kept out of it."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    dockerfile = (ROOT / "deploy" / "app" / "Dockerfile").read_text()
    kept = (ROOT / "deploy" / "app" / "Dockerfile.dockerignore").read_text().split()
    for path in [
        *build["targets"]["wheel"]["only-include"],
        "hatch_build.py",
        "README.md",
        "LICENSE",
    ]:
        assert re.search(rf"^COPY .*\b{re.escape(path)}\b", dockerfile, re.MULTILINE), path
        assert f"!{path}" in kept


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_has_an_application(config: Config, profile: str) -> None:
    """Its application has the key of the environment, and a store of the profile's."""
    key = generate_key()
    found = config(profile, key=key)["services"]
    app = found[f"{profile}-app"]

    assert app["environment"]["SESSION_SECRET_KEY"] == key
    hosts = re.findall(r"[@,]([a-z0-9-]+):\d+", app["environment"]["SESSION_STORE"])
    assert hosts
    assert set(hosts) <= set(found)
    assert Path(app["build"]["context"]) == ROOT
    assert (ROOT / app["build"]["dockerfile"]).is_file()
    assert [name for name in found if name.endswith("-app")] == [f"{profile}-app"]


@pytest.mark.parametrize(
    ("profile", "kind"),
    [("sentinel", "sentinel"), ("cluster", "cluster"), ("tls", "server")],
)
def test_store_is_one(config: Config, profile: str, kind: str) -> None:
    """The store takes the URL, and knows what it leads to."""
    environment = config(profile)["services"][f"{profile}-app"]["environment"]
    assert deployment_of(environment["SESSION_STORE"]).kind == kind


def test_nothing_is_reachable_from_elsewhere(config: Config) -> None:
    """Ports are this machine's alone, and no two services that run together have the same."""
    described = config(*PROFILES)["services"]
    for app in ("demo", *(f"{profile}-app" for profile in PROFILES)):
        services = together(described, app)
        ports = [port for service in services.values() for port in service.get("ports", [])]
        assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
        published = [port["published"] for port in ports]
        assert sorted(published) == sorted(set(published))


def test_files_are_there_and_read_only(config: Config) -> None:
    """What is mounted from here exists, can't be changed, and runs if it is a program."""
    services = config(*PROFILES)["services"]
    mounts = [mount for each in services.values() for mount in each.get("volumes", [])]
    files = [mount for mount in mounts if mount["type"] == "bind"]
    assert len(files) > 20
    for mount in files:
        source = Path(mount["source"])
        assert source.is_file()
        assert mount["read_only"]
        if source.suffix == ".sh":
            assert source.stat().st_mode & stat.S_IXUSR


def test_each_server_has_a_volume_of_its_own(config: Config) -> None:
    """Data is in a named volume that no other service has."""
    services = config(*PROFILES)["services"]
    data = [
        mount["source"]
        for service in services.values()
        for mount in service.get("volumes", [])
        if mount["target"] == "/data"
    ]
    assert len(data) == len(set(data)) == 14


@pytest.mark.parametrize("profile", PROFILES)
def test_services_have_few_rights(config: Config, profile: str) -> None:
    """Beside the plain Redis all run without capabilities, and none gains any."""
    services = config(profile)["services"]
    del services["redis"]
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("profile", PROFILES)
def test_servers_are_watched(config: Config, profile: str) -> None:
    """What goes on running has a health check; the application waits for what it needs."""
    services = config(profile)["services"]
    for name, service in services.items():
        once = name in {"cluster-create", "tls-certificates"}
        assert ("healthcheck" in service) is not once
        assert ("restart" in service) is not once
    needed: dict[str, Any] = services[f"{profile}-app"]["depends_on"]
    assert needed
    assert {need["condition"] for need in needed.values()} <= {
        "service_healthy",
        "service_completed_successfully",
    }
