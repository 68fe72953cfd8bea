"""What a session can be bound to, so that a stolen cookie is worth less.

A binding is never the only defence: addresses are shared, and headers can be copied.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal

from starlette.requests import HTTPConnection
from starlette.types import Scope

from redis_sessions.errors import ConfigurationError
from redis_sessions.events import is_sync
from redis_sessions.session.context import Peer

__all__ = ["Binding", "BindingOption", "bind_to", "bound_by", "client_ip", "peer_of", "user_agent"]

Binding = Callable[[HTTPConnection], "str | None"]
"""What a connection is bound to; None is nothing."""

BindingOption = Literal["ip", "user_agent"] | Binding


def bind_to(option: BindingOption | None) -> Binding | None:
    """The callable for an option. Raises `ConfigurationError`."""
    if option is None or is_sync(option):
        return option
    if option == "ip":
        return client_ip()
    if option == "user_agent":
        return user_agent
    raise ConfigurationError(
        f"binding={option!r}: write 'ip', 'user_agent', client_ip(v4=24, v6=56) or a callable "
        "that isn't async"
    )


def bound_by(binding: Binding, scope: Scope) -> str | None:
    """What a session of this connection is bound to."""
    bound = binding(HTTPConnection(scope))
    if bound is None or isinstance(bound, str):  # pyright: ignore[reportUnnecessaryIsInstance] - an application's
        return bound
    raise ConfigurationError(f"binding= made {bound!r} of a request: return text, or None")


def peer_of(scope: Scope) -> Peer:
    """The client, as the ASGI server gives it."""
    client = scope.get("client")
    agent = next((v for k, v in scope["headers"] if k == b"user-agent"), None)
    return Peer(client[0] if client else None, None if agent is None else agent.decode("latin-1"))


def client_ip(*, v4: int = 32, v6: int = 128) -> Binding:
    """Bind a session to the client's address, or to its network of so many bits.

    The address is the one that the ASGI server gives. Behind a proxy, the server has to trust the
    proxy's forwarded headers (uvicorn: `--proxy-headers --forwarded-allow-ips`).
    """
    if not (0 < v4 <= 32 and 0 < v6 <= 128):
        raise ConfigurationError(
            f"client_ip(v4={v4}, v6={v6}): write numbers of bits, v4 up to 32 and v6 up to 128"
        )

    def bound(connection: HTTPConnection) -> str | None:
        if connection.client is None:
            return None
        try:
            address = ip_address(connection.client.host)
        except ValueError:
            return connection.client.host  # such as that of a Unix socket or of a test client
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        bits = v4 if address.version == 4 else v6
        return str(ip_network((address, bits), strict=False))

    return bound


def user_agent(connection: HTTPConnection) -> str | None:
    """Bind a session to the User-Agent header. It changes when the browser is updated."""
    return connection.headers.get("user-agent", "")
