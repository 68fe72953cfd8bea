"""Certificates for one run: an authority, a server's for this machine, and a client's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from redis_sessions.errors import ConfigurationError

if TYPE_CHECKING:
    import trustme

__all__ = ["Certificates"]


@dataclass(frozen=True)
class Certificates:
    """The PEM files. The server's certificate is for `localhost` and 127.0.0.1."""

    ca: Path
    server: Path
    server_key: Path
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
            directory / "client.pem",
            directory / "client.key",
        )
        directory.mkdir(mode=0o700)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(files.ca)
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(files.server_key)
        _write(server.cert_chain_pems, files.server)
        client = authority.issue_cert("app.invalid", common_name="app")
        client.private_key_pem.write_to_path(files.client_key)
        _write(client.cert_chain_pems, files.client)
        return files

    def client_arguments(self, *, certificate: bool = True) -> dict[str, str]:
        """What a client of redis-py wants, in its arguments or in the URL's query."""
        arguments = {"ssl_ca_certs": str(self.ca)}
        if certificate:
            arguments["ssl_certfile"] = str(self.client)
            arguments["ssl_keyfile"] = str(self.client_key)
        return arguments


def _write(pems: list[trustme.Blob], path: Path) -> None:
    path.write_bytes(b"".join(pem.bytes() for pem in pems))
