"""Fixtures of the interop tests."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.serving import HTTP, HTTPS, SECRET, Options, Records, Site


@pytest.fixture
def records(redis_url: str, prefix: str) -> Records:
    """A look at what the test's applications store."""
    return Records(redis_url, prefix)


@pytest.fixture
def options(redis_url: str, prefix: str) -> Options:
    """`SessionMiddleware`'s arguments for a real Redis, under the test's own prefix."""

    def merged(**more: Any) -> dict[str, Any]:
        return {"secret_key": SECRET, "store": redis_url, "prefix": prefix, **more}

    return merged


@pytest.fixture(params=[HTTPS, HTTP], ids=lambda site: site.scheme)
def site(request: pytest.FixtureRequest) -> Site:
    """https and plain http, each with its default cookie."""
    found: Site = request.param
    return found
