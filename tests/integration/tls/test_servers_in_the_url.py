"""TLS to whoever is in the URL: who is refused, in every topology."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from redis_sessions.testing import topology
from redis_sessions.testing.topology import Certificates
from tests.integration.check_command import levels
from tests.integration.tls.refusals import (
    CUT_OFF,
    NO_TLS,
    OURS,
    STANDARD,
    commands_to,
    refused,
    url_with,
)

pytestmark = STANDARD


async def test_another_authority(secured: Any, strangers: Certificates) -> None:
    """Whom the authority in the URL doesn't vouch for is refused."""
    await refused(url_with(secured, ssl_ca_certs=strangers.ca), "CERTIFICATE_VERIFY_FAILED")


async def test_the_system_knows_another_authority(
    secured: Any, strangers: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority in the URL is the only one: whom the system's vouch for is refused, too."""
    monkeypatch.setenv("SSL_CERT_FILE", str(secured.certificates.ca))
    stranger = url_with(secured, ssl_ca_certs=strangers.ca, ssl_check_hostname="false")
    await refused(stranger, "CERTIFICATE_VERIFY_FAILED")
    if secured.url.startswith("rediss://"):
        await refused(Redis.from_url(stranger), "CERTIFICATE_VERIFY_FAILED")


async def test_the_systems_authorities(secured: Any) -> None:
    """Without an authority in the URL it is the system's, which don't know ours."""
    await refused(url_with(secured, ssl_ca_certs=None), "CERTIFICATE_VERIFY_FAILED")


async def test_no_clients_certificate(secured: Any) -> None:
    """A client without a certificate is refused, and told so."""
    await refused(url_with(secured, ssl_certfile=None, ssl_keyfile=None), CUT_OFF)


async def test_a_strangers_certificate(secured: Any, strangers: Certificates) -> None:
    """A client's of another authority is refused, too."""
    files = {"ssl_certfile": strangers.client, "ssl_keyfile": strangers.client_key}
    await refused(url_with(secured, **files), CUT_OFF)


async def test_another_name(secured: Any) -> None:
    """The same machine under a name that isn't in its certificate."""
    await refused(secured.url.replace("127.0.0.1", "127.1"), "(?i)mismatch")


async def test_plain_text_is_refused(secured: Any) -> None:
    """Servers that speak TLS don't answer a client that doesn't."""
    await refused(secured.url.partition("?")[0].replace("rediss", "redis", 1), CUT_OFF)


@pytest.mark.parametrize(
    "url", ["rediss://{}/0", "rediss+sentinel://{}/mymaster", "rediss+cluster://{}"]
)
async def test_no_way_back_to_plain_text(url: str, server_binary: Path) -> None:
    """A server that doesn't speak TLS is never told a command, nor a password."""
    with topology.single(server=server_binary) as plain:
        source = url.format(f"app:sesame@{plain.primary.address}")
        await refused(f"{source}?ssl_cert_reqs=none", NO_TLS)
        assert commands_to(plain.primary) <= OURS


def test_a_check(secured: Any, prefix: str) -> None:
    """`redis-sessions check` reaches every server, and is as strict."""
    found = levels(secured.url, "--prefix", prefix)
    assert (found["tls"]["level"], found["rights"]["level"]) == ("ok", "ok")
    nobody = levels(url_with(secured, ssl_ca_certs=None), "--prefix", prefix, status=2)
    assert "certificate" in nobody["connection"]["text"].lower()
