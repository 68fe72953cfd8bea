"""Topologies that speak TLS, and certificates that they don't know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from redis_sessions.testing.topology import Certificates


@pytest.fixture(params=["tls", "tls_sentinel", "tls_cluster"])
def secured(request: pytest.FixtureRequest) -> Any:
    """Each topology that speaks TLS only, and wants a client's certificate."""
    return request.getfixturevalue(f"{request.param}_topology")


@pytest.fixture
def strangers(tmp_path: Path) -> Certificates:
    """Of another authority, for the same names."""
    return Certificates.create(tmp_path / "strangers")
