"""Certificates for one run: an authority, servers' for this machine and another, a client's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from redis_sessions.errors import ConfigurationError

if TYPE_CHECKING:
    import trustme

__all__ = ["Certificates"]


@dataclass(frozen=True)
class Certificates:
    """The PEM files. The server's certificate is for `localhost` and 127.0.0.1.

    `elsewhere` is one of the same authority for a server of another name, and not of this one.
    """

    ca: Path
    server: Path
    server_key: Path
    elsewhere: Path
    elsewhere_key: Path
    client: Path
    client_key: Path

    @classmethod
    def create(cls, directory: Path) -> Self:
        """Write them into a new directory; `ConfigurationError` without trustme."""
        try:
            import trustme
        except ImportError as exc:
            raise ConfigurationError("certificates need trustme: pip install trustme") from exc
        files = cls(
            directory / "ca.pem",
            directory / "server.pem",
            directory / "server.key",
            directory / "elsewhere.pem",
            directory / "elsewhere.key",
            directory / "client.pem",
            directory / "client.key",
        )
        directory.mkdir(mode=0o700)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(files.ca)
        server = authority.issue_cert("localhost", "127.0.0.1")
        _write(server, files.server, files.server_key)
        elsewhere = authority.issue_cert("elsewhere.invalid")
        _write(elsewhere, files.elsewhere, files.elsewhere_key)
        client = authority.issue_cert("app.invalid", common_name="app")
        _write(client, files.client, files.client_key)
        return files

    def server_config(self, *, client_certificates: bool) -> list[str]:
        """The configuration of a server in a directory beside this one."""
        here = f"../{self.ca.parent.name}"
        return [
            f"tls-ca-cert-file {here}/{self.ca.name}",
            f"tls-cert-file {here}/{self.server.name}",
            f"tls-key-file {here}/{self.server_key.name}",
            f"tls-auth-clients {'yes' if client_certificates else 'no'}",
            "tls-replication yes",
        ]

    def secured(self, url: str, *, certificate: bool = True) -> str:
        """A URL that begins with `redis`, over TLS."""
        query = urlencode(self.client_arguments(certificate=certificate), safe="/")
        return f"{url.replace('redis', 'rediss', 1)}?{query}"

    def client_arguments(self, *, certificate: bool = True) -> dict[str, str]:
        """What a client of redis-py wants, in its arguments or in the URL's query."""
        arguments = {"ssl_ca_certs": str(self.ca)}
        if certificate:
            arguments["ssl_certfile"] = str(self.client)
            arguments["ssl_keyfile"] = str(self.client_key)
        return arguments


def _write(issued: trustme.LeafCert, path: Path, key: Path) -> None:
    path.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
