"""What a URL, or a ready redis-py client, says about a deployment; nothing is connected here."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from redis_sessions.errors import ConfigurationError

__all__ = ["SCHEMES", "Address", "Client", "Deployment"]

T = TypeVar("T")

Address = tuple[str, int]
Client = Redis | RedisCluster
Kind = Literal["server", "sentinel", "cluster", "embedded"]

SCHEMES: Final = (
    *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
    *("redis+cluster", "rediss+cluster", "embedded"),
)

_SECRETS: Final = ("password_file", "password_env", "username_env")
_SENTINELS: Final = ("username", "password", "password_file", "password_env")
_OURS: Final = ("replicas", *_SECRETS, *(f"sentinel_{name}" for name in _SENTINELS))

_EXAMPLES: Final = {
    "server": "redis://user:password@host:6379/0",
    "sentinel": "redis+sentinel://user:password@host:26379,host:26379/mymaster/0",
    "cluster": "redis+cluster://user:password@host:7000,host:7001",
}

# What redis-py adds to the arguments of a client's connections for the client's own use.
_OF_THE_CLIENT: Final = (
    *("himport_registry", "event_dispatcher", "parser_class", "encoder_class", "connection_pool"),
    *("redis_connect_func", "response_callbacks", "max_connections", "host", "port"),
)
_OF_MAINTENANCE: Final = ("maint_", "orig_", "maintenance_", "oss_cluster_")

_logger: Final = logging.getLogger("redis_sessions")


@dataclass(frozen=True)
class Deployment:
    """Where to connect, and how. `arguments` are those of redis-py's connections.

    A client that is passed in stays its owner's: its settings are used, not its connections,
    since those belong to one event loop.
    """

    kind: Kind
    hosts: tuple[Address, ...] = ()
    """Servers (the primary first), Sentinels, or some nodes of a Cluster."""
    name: str = ""
    """Of what the Sentinels watch, or of the embedded server."""
    connection_class: Any = Connection
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    sentinel_class: Any = Connection
    sentinel_arguments: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    max_connections: int | None = None
    reads_replicas: bool = False

    @property
    def tls(self) -> bool:
        return issubclass(self.connection_class, SSLConnection)

    @classmethod
    def of(cls, source: str | Client) -> Deployment:
        """What a URL or a client says; `ConfigurationError` says what to write instead."""
        return _of_url(source) if isinstance(source, str) else _of_client(source)


# -- URLs


def _of_url(url: str) -> Deployment:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unreadable("server") from None
    if parts.scheme not in SCHEMES:
        schemes = ", ".join(f"{scheme}://" for scheme in (*SCHEMES, "memory"))
        raise ConfigurationError(
            f"store={parts.scheme + '://…' if parts.scheme else '…'!r} is no URL of a store: "
            f"write one of {schemes}, such as redis://localhost:6379/0"
        )
    if parts.scheme == "embedded":
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigurationError(f"store={url!r}: write embedded:// or embedded://name")
        return Deployment(
            "embedded", name=parts.netloc, connection_class=UnixDomainSocketConnection
        )
    base, _, named = parts.scheme.partition("+")
    kind = cast("Kind", named or "server")
    ours, theirs = _options(parts.query)
    if base == "unix":
        hosts: tuple[Address, ...] = ()
        given = _parsed(f"unix://{parts.netloc}{parts.path}?{urlencode(theirs)}")
        name = ""
    else:
        hosts = _hosts(parts, kind)
        name, database = _path(parts, kind)
        user, at, _ = parts.netloc.rpartition("@")
        given = _parsed(f"{base}://{user}{at}host/{database}?{urlencode(theirs)}")
    reads_replicas = _replicas(ours, kind, hosts)
    if kind == "cluster" and given.get("db", 0) != 0:
        raise ConfigurationError("the store's URL: a Cluster has database 0 alone; leave it out")
    if kind != "sentinel" and (odd := [name for name in ours if name.startswith("sentinel_")]):
        raise ConfigurationError(f"{odd[0]}= is for redis+sentinel:// alone; leave it out")
    connection_class = given.pop("connection_class", Connection)
    tls = _tls(given, base)
    sentinels = {n.removeprefix("sentinel_"): text for n, text in ours.items() if "sent" in n}
    return Deployment(
        kind,
        hosts,
        name,
        connection_class,
        max_connections=given.pop("max_connections", None),
        reads_replicas=reads_replicas,
        sentinel_class=connection_class,
        sentinel_arguments={**tls, **_with_secrets({}, sentinels, "sentinel_")},
        arguments={**tls, **_with_secrets(given, ours, "")},
    )


def _unreadable(kind: Kind) -> ConfigurationError:
    # Not its text, nor the chain: a password may be what couldn't be read.
    return ConfigurationError(
        f"the store's URL can't be read: write {_EXAMPLES[kind]}, with what isn't a letter or "
        "digit in user and password percent-encoded"
    )


def _options(query: str) -> tuple[dict[str, str], dict[str, str]]:
    """Ours, and redis-py's, which would pass over an empty one, and take the first of two."""
    found = dict[str, str]()
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in found:
            raise ConfigurationError(f"the store's URL has {name}= twice; write it once")
        if not text:
            raise ConfigurationError(f"the store's URL has an empty {name}=; write a value")
        found[name] = text
    ours = {name: text for name, text in found.items() if name in _OURS}
    return ours, {name: text for name, text in found.items() if name not in _OURS}


def _parsed(url: str) -> dict[str, Any]:
    try:
        given = dict(parse_url(url))
    except ValueError as exc:  # of a known option, by name
        raise ConfigurationError(f"the store's URL can't be read: {exc}") from None
    given.pop("host", None)
    return given


def _hosts(parts: SplitResult, kind: Kind) -> tuple[Address, ...]:
    if not parts.netloc:
        raise _unreadable(kind)
    default = 26379 if kind == "sentinel" else 6379
    found: list[Address] = []
    for text in parts.netloc.rpartition("@")[2].split(","):
        try:
            one = urlsplit(f"//{text}")
            found.append((unquote(one.hostname or "localhost"), one.port or default))
        except ValueError:
            raise _unreadable(kind) from None
        if (one.hostname is None and (kind != "server" or found[1:])) or one.path:
            raise _unreadable(kind)
    return tuple(found)


def _path(parts: SplitResult, kind: Kind) -> tuple[str, str]:
    """The name that the Sentinels know, and the database."""
    name, database = "", parts.path.strip("/")
    if kind == "sentinel":
        name, _, database = database.partition("/")
        if not name:
            raise ConfigurationError(
                "the store's URL doesn't say what the Sentinels call the primary: "
                f"write {_EXAMPLES[kind]}"
            )
    if database and not (database.isdigit() and database.isascii()):
        raise _unreadable(kind)  # redis-py would take the default in its place
    return unquote(name), database


def _replicas(ours: Mapping[str, str], kind: Kind, hosts: tuple[Address, ...]) -> bool:
    wish = ours.get("replicas")
    if wish not in (None, "read"):
        raise ConfigurationError(f"replicas={wish!r}: write replicas=read, or leave it out")
    if kind == "server" and wish is not None and len(hosts) < 2:
        raise ConfigurationError(
            "replicas=read needs to know them: write redis://primary:6379,replica:6379/0, or use "
            "redis+sentinel:// or redis+cluster://"
        )
    if kind == "server" and wish is None and len(hosts) > 1:
        raise ConfigurationError(
            "the store's URL has several hosts: write redis+sentinel:// or redis+cluster:// if it "
            "is one of these, or ?replicas=read if the first is the primary of the others"
        )
    return wish is not None


def _tls(given: dict[str, Any], base: str) -> dict[str, Any]:
    """The TLS arguments, taken out of what was given."""
    found = {name: given.pop(name) for name in list(given) if name.startswith("ssl_")}
    if base != "rediss":
        if found:
            raise ConfigurationError(
                f"{min(found)}= is for TLS, which this URL doesn't use: write rediss instead of "
                "redis in the scheme"
            )
        return {}
    lowest = found.setdefault("ssl_min_version", ssl.TLSVersion.TLSv1_2)
    if lowest < ssl.TLSVersion.TLSv1_2:
        raise ConfigurationError("ssl_min_version=: write 771 (TLS 1.2) or 772 (TLS 1.3)")
    found["ssl_min_version"] = ssl.TLSVersion(lowest)
    if found.get("ssl_cert_reqs", "required") == "none":
        _logger.warning("sessions: ssl_cert_reqs=none: anybody may pose as the server")
    elif not found.get("ssl_check_hostname", True):
        _logger.warning(
            "sessions: ssl_check_hostname=false: whoever has any certificate of this authority "
            "may pose as the server"
        )
    return found


# -- names and passwords from elsewhere


def _with_secrets(given: Mapping[str, Any], ours: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """The arguments, with a provider of credentials if they are to be found elsewhere."""
    given = {**given, **{n: ours[n] for n in ("username", "password") if prefix and n in ours}}
    path, variable, user = (ours.get(name) for name in _SECRETS)
    if path is None and variable is None and user is None:
        return given
    sources = [
        name
        for name, there in (
            ("a password", "password" in given),
            (f"{prefix}password_file=", path is not None),
            (f"{prefix}password_env=", variable is not None),
        )
        if there
    ]
    if len(sources) != 1:
        what = " and ".join(sources) or f"{prefix}username_env= without a password"
        raise ConfigurationError(
            f"the store's URL has {what}: write one of a password, {prefix}password_file= and "
            f"{prefix}password_env="
        )
    if user is not None and "username" in given:
        raise ConfigurationError("the store's URL has a user and username_env=: write one of them")
    provider = Credentials(
        path=path,
        variable=variable,
        password=given.pop("password", None),
        user_variable=user,
        user=given.pop("username", None),
    )
    try:
        provider.get_credentials()
    except AuthenticationError as exc:
        raise ConfigurationError(f"the store's URL: {exc}") from None
    return {**given, "credential_provider": provider}


class Credentials(CredentialProvider):
    """Read again for each connection, so that what was exchanged meanwhile is found."""

    def __init__(
        self,
        *,
        path: str | None,
        variable: str | None,
        password: str | None,
        user_variable: str | None,
        user: str | None,
    ) -> None:
        self._path = path
        self._variable = variable
        self._password = password
        self._user_variable = user_variable
        self._user = user

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """(password,) or (user, password); `AuthenticationError` if they can't be read."""
        user = self._user
        if self._user_variable is not None:
            user = _variable(self._user_variable, "username_env")
        if self._path is not None:
            password = _file(self._path)
        elif self._variable is not None:
            password = _variable(self._variable, "password_env")
        else:
            password = self._password or ""
        return (password,) if user is None else (user, password)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


def _file(path: str) -> str:
    try:
        text = Path(path).read_text().rstrip("\r\n")
    except (OSError, ValueError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is no text"
        raise AuthenticationError(f"password_file={path!r} can't be read: {why}") from None
    if not text:
        raise AuthenticationError(f"password_file={path!r} is empty")
    return text


def _variable(name: str, option: str) -> str:
    text = os.environ.get(name)
    if not text:
        raise AuthenticationError(f"{option}={name!r}: there is no such environment variable")
    return text


# -- clients


def _of_client(client: object) -> Deployment:
    if isinstance(client, RedisCluster):
        given = _arguments(client.connection_kwargs)
        return Deployment(
            "cluster",
            tuple((node.host, int(node.port)) for node in client.startup_nodes),
            connection_class=given.pop("connection_class", Connection),
            arguments=given,
            reads_replicas=bool(client.read_from_replicas or client.load_balancing_strategy),
        )
    pool: Any = getattr(client, "connection_pool", None)
    managed = cast("object", pool)
    if isinstance(managed, SentinelConnectionPool) and managed.is_master:
        clients: list[Any] = pool.sentinel_manager.sentinels
        watchers: list[Any] = [client.connection_pool for client in clients]
        return Deployment(
            "sentinel",
            tuple((w.connection_kwargs["host"], w.connection_kwargs["port"]) for w in watchers),
            name=str(pool.service_name),
            connection_class=_plain(pool.connection_class),
            arguments=_arguments(pool.connection_kwargs),
            sentinel_class=watchers[0].connection_class,
            sentinel_arguments=_arguments(watchers[0].connection_kwargs),
        )
    if type(pool) not in (ConnectionPool, BlockingConnectionPool):
        raise ConfigurationError(
            f"store={type(client).__name__} can't be used: pass a URL, a redis.asyncio.Redis, or "
            "one of Sentinel.master_for(), a RedisCluster, or an object with the methods of "
            "SessionStore"
        )
    given = dict(pool.connection_kwargs)
    host = given.get("host", "localhost"), given.get("port", 6379)
    hosts = () if "path" in given else (host,)
    return Deployment(
        "server", hosts, connection_class=pool.connection_class, arguments=_arguments(given)
    )


def _plain(managed: type[Any]) -> Any:
    """Of a Sentinel's connections: that of connections to a host that is known."""
    return SSLConnection if issubclass(managed, SSLConnection) else Connection


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in given.items()
        if name not in _OF_THE_CLIENT and not name.startswith(_OF_MAINTENANCE)
    }
