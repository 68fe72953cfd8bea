"""A demo that these tests share, and a browser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.demo.process import Demo


@pytest.fixture(scope="package")
def demo(findable_server: None) -> Iterator[Demo]:
    with Demo() as demo:
        yield demo


@pytest.fixture
def browser(demo: Demo) -> Iterator[httpx.Client]:
    with demo.browser() as client:
        yield client
