"""FastHTML, in a process of its own, since it changes Starlette for all of its process."""

from __future__ import annotations

import os

import httpx2
import pytest

from tests.interop.serving import HTTP, Records, id_of, served


@pytest.mark.timeout(180)  # its imports alone take seconds
def test_session(redis_url: str, prefix: str, records: Records) -> None:
    """A visitor's session goes along at sign-in; whoever caches a user's page is told; it ends."""
    with (
        served("tests.interop.fasthtml_app", redis_url, prefix, environment=os.environ) as address,
        httpx2.Client(base_url=address, timeout=30) as client,
    ):
        client.post("/visit")
        before = client.cookies[HTTP.cookie]
        client.post("/sign-in", data={"name": "ann"})
        after = client.cookies[HTTP.cookie]
        response = client.get("/me")
        assert "user ann, visits 1" in response.text
        assert "Cookie" in response.headers["vary"].split(", ")
        assert id_of(after) != id_of(before)
        assert records.ids() == {id_of(after)}
        client.post("/sign-out")
        assert HTTP.cookie not in client.cookies
        assert "user None" in client.get("/me").text
        assert records.ids() == set()
