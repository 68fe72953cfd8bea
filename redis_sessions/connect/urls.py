"""What a URL says about a deployment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address
from typing import Any, Final, cast
from urllib.parse import unquote

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError

from redis_sessions.connect.credentials import Credentials
from redis_sessions.connect.deployment import Address, Deployment, Kind
from redis_sessions.connect.options import KNOWN, OURS, parsed, tls_arguments
from redis_sessions.errors import ConfigurationError

__all__ = ["SCHEMES", "deployment_from_url"]

SCHEMES: Final = (
    *("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel"),
    *("redis+cluster", "rediss+cluster", "embedded"),
)

_EXAMPLES: Final = {
    "server": "redis://user:password@host:6379/0",
    "unix": "unix:///path/to/socket?db=0",
    "sentinel": "redis+sentinel://user:password@host:26379,host:26379/mymaster/0",
    "cluster": "redis+cluster://user:password@host:7000,host:7001",
    "embedded": "embedded:// or embedded://name",
}

_CONNECTIONS: Final[Mapping[str, Any]] = {
    "redis": Connection,
    "rediss": SSLConnection,
    "unix": UnixDomainSocketConnection,
}


def deployment_from_url(url: str) -> Deployment:
    """The deployment that a URL names; `ConfigurationError` says what to write instead.

    Examples are in `_EXAMPLES`. No message repeats a part of the URL that may be a password.
    """
    scheme, rest = _scheme(url.strip())
    base, _, named = scheme.partition("+")
    kind = cast("Kind", named or ("embedded" if base == "embedded" else "server"))
    example = _EXAMPLES["unix" if base == "unix" else kind]
    user, netloc, path, query = _split(rest, example)
    found = _options(query, example)
    if kind == "embedded":
        return _embedded(user + path.strip("/"), netloc, found)
    given: dict[str, Any] = {**_user(user, found, example), **parsed(found)}
    hosts: tuple[Address, ...] = ()
    name = database = ""
    if base == "unix":
        given["path"] = _socket(netloc, path, example)
    else:
        hosts = _hosts(netloc, kind)
        name, database = _path(path, kind)
    if database:
        if "db" in given:
            raise ConfigurationError("the store's URL has a database and db=: write one of them")
        given["db"] = int(database)
    ours = {name: text for name, text in found.items() if name in OURS}
    reads_replicas = _replicas(ours, kind, hosts)
    if kind == "cluster" and given.get("db", 0) != 0:
        raise ConfigurationError("the store's URL: a Cluster has database 0 alone; leave it out")
    if kind != "sentinel" and (odd := [name for name in ours if name.startswith("sentinel_")]):
        raise ConfigurationError(f"{odd[0]}= is for redis+sentinel:// alone; leave it out")
    connection_class = _CONNECTIONS[base]
    tls = tls_arguments(given, tls=base == "rediss")
    sentinels = {n.removeprefix("sentinel_"): text for n, text in ours.items() if "sent" in n}
    return Deployment(
        kind,
        hosts,
        name,
        connection_class,
        max_connections=given.pop("max_connections", None),
        reads_replicas=reads_replicas,
        timeout=given.pop("socket_timeout", None),
        client_cache=given.pop("client_cache", None),
        sentinel_class=connection_class,
        sentinel_arguments={**tls, **_with_secrets({}, sentinels, "sentinel_")},
        arguments={**tls, **_with_secrets(given, ours, "")},
    )


def _scheme(url: str) -> tuple[str, str]:
    written, there, rest = url.partition("://")
    scheme = written.lower()
    if there and scheme in SCHEMES:
        return scheme, rest
    if there and scheme == "memory":
        raise ConfigurationError(
            "memory:// is a dict in the process itself, and no Redis: write the URL of a Redis"
        )
    schemes = ", ".join(f"{scheme}://" for scheme in (*SCHEMES, "memory"))
    named = there and re.fullmatch(r"[a-z0-9+.-]+", scheme)
    raise ConfigurationError(
        f"store={scheme + '://…' if named else '…'!r} is no URL of a store: "
        f"write one of {schemes}, such as redis://localhost:6379/0"
    )


def _unreadable(example: str) -> ConfigurationError:
    # The message has neither the URL's text nor a cause: what couldn't be read may be a password.
    hint = ", with spaces, @, ? and # percent-encoded"
    if "password" in example:
        hint = ", user and password once, with what isn't a letter or digit in them percent-encoded"
    return ConfigurationError(f"the store's URL can't be read: write {example}{hint}")


def _split(rest: str, example: str) -> tuple[str, str, str, str]:
    """User and password, hosts, path and query, as they are written.

    Python's `urlsplit` isn't used, since each version of Python drops and refuses other
    characters. A password that wasn't percent-encoded leaves an @ in the path or the query, which
    the pattern doesn't accept.
    """
    parts = re.fullmatch(r"(?:([^@,/?#]*)@)?([^@/?#]*)(/[^@?#]*)?(?:\?([^#]*))?", rest)
    if parts is None or re.search(r"[\x00-\x20\x7f]", rest):
        raise _unreadable(example)
    user, netloc, path, query = parts.groups(default="")
    return user, netloc, path, query


def _decoded(text: str, example: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _unreadable(example) from None


def _options(query: str, example: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    # An error shows names only if they can't be the rest of a password.
    names = [name for name, _, _ in pairs]
    unknown = [name for name in names if name not in KNOWN]
    if not all(re.fullmatch("[a-z_]+", name) for name in names) or (unknown and "@" in query):
        raise _unreadable(example)
    for name in unknown:
        tls = name.startswith("ssl_")
        takes = ", ".join(f"{one}=" for one in sorted(KNOWN) if one.startswith("ssl_") is tls)
        raise ConfigurationError(f"{name}= is no option of a store's URL: it takes {takes}")
    found = dict[str, str]()
    for name, _, text in pairs:
        if name in found:
            raise ConfigurationError(f"the store's URL has {name}= twice; write it once")
        if not text:
            raise ConfigurationError(f"the store's URL has an empty {name}=; write a value")
        found[name] = _decoded(text, example)
    return found


def _embedded(more: str, name: str, found: Mapping[str, str]) -> Deployment:
    if more or not re.fullmatch(r"[\w.-]*", name):
        raise _unreadable(_EXAMPLES["embedded"])
    if found:
        raise ConfigurationError(f"embedded:// takes no options: leave {min(found)}= out")
    return Deployment("embedded", name=name, connection_class=UnixDomainSocketConnection)


def _user(user: str, found: Mapping[str, str], example: str) -> dict[str, str]:
    username, _, password = user.partition(":")
    given = {"username": username, "password": password}
    given = {name: _decoded(text, example) for name, text in given.items() if text}
    for name in given:
        if name in found:
            raise ConfigurationError(f"the store's URL has a {name} and {name}=: write one of them")
    return given


def _socket(netloc: str, path: str, example: str) -> str:
    if netloc or not path.strip("/"):
        raise _unreadable(example)
    return _decoded(path, example)


def _hosts(netloc: str, kind: Kind) -> tuple[Address, ...]:
    default = 26379 if kind == "sentinel" else 6379
    texts = netloc.split(",")
    found: list[Address] = []
    for text in texts:
        parts = re.fullmatch(r"(?:\[([^\]]+)\]|([\w.-]*))(?::([0-9]{1,5}))?", text)
        if parts is None:
            raise _unreadable(_EXAMPLES[kind])
        inner, name, port = parts.groups(default="")
        try:
            host = str(IPv6Address(unquote(inner))) if inner else name
            host.encode("idna")  # refuses empty and too long labels, as connecting would
        except ValueError:
            raise _unreadable(_EXAMPLES[kind]) from None
        number = int(port or default)
        alone = kind == "server" and len(texts) == 1 and port
        if not 1 <= number <= 65535 or not (host or alone):
            raise _unreadable(_EXAMPLES[kind])
        found.append((host or "localhost", number))
    return tuple(found)


def _path(path: str, kind: Kind) -> tuple[str, str]:
    """The name by which the Sentinels know the primary, and the database. Both may be empty."""
    name, database = "", path.removeprefix("/").removesuffix("/")
    if kind == "sentinel":
        name, _, database = database.partition("/")
        if not name:
            raise ConfigurationError(
                "the store's URL doesn't say what the Sentinels call the primary: "
                f"write {_EXAMPLES[kind]}"
            )
    if database and not re.fullmatch(r"[0-9]{1,9}", database):
        # The message doesn't repeat it, since it may be the rest of a password.
        raise ConfigurationError(
            f"the store's URL: the database, after the last /, is a number: write "
            f"{_EXAMPLES[kind]}, or leave it out"
        )
    return _decoded(name, _EXAMPLES[kind]), database


def _replicas(ours: Mapping[str, str], kind: Kind, hosts: tuple[Address, ...]) -> bool:
    wish = ours.get("replicas")
    if wish not in (None, "read"):
        raise ConfigurationError("replicas=: write replicas=read, or leave it out")
    if kind == "server" and wish is not None and len(hosts) < 2:
        raise ConfigurationError(
            "replicas=read needs to know the replicas: write "
            "redis://primary:6379,replica:6379/0, or use redis+sentinel:// or redis+cluster://"
        )
    if kind == "server" and wish is None and len(hosts) > 1:
        raise ConfigurationError(
            "the store's URL has several hosts: write redis+sentinel:// or redis+cluster:// if it "
            "is one of these, or ?replicas=read if the first is the primary of the others"
        )
    return wish is not None


def _with_secrets(given: Mapping[str, Any], ours: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """The arguments of connections, with a provider if a file or the environment has credentials.

    `prefix` is that of the options' names: "" for the servers, "sentinel_" for the Sentinels.
    """
    given = {**given, **{n: ours[n] for n in ("username", "password") if prefix and n in ours}}
    path, variable, user = (
        ours.get(name) for name in ("password_file", "password_env", "username_env")
    )
    sources = [
        name
        for name, there in (
            ("a password", "password" in given),
            (f"{prefix}password_file=", path is not None),
            (f"{prefix}password_env=", variable is not None),
        )
        if there
    ]
    # A server's user may have no password (`nopass`). A Sentinel's user without one isn't accepted:
    # it may do no more than a client without a name.
    needed = user is not None or (prefix != "" and "username" in given)
    if len(sources) > 1 or (needed and not sources):
        option = f"{prefix}username_env=" if user is not None else f"{prefix}username="
        what = " and ".join(sources) or f"{option} without a password"
        raise ConfigurationError(
            f"the store's URL has {what}: write one of a password, {prefix}password_file= and "
            f"{prefix}password_env="
        )
    if user is not None and "username" in given:
        raise ConfigurationError("the store's URL has a user and username_env=: write one of them")
    if path is None and variable is None and user is None:
        return given
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
