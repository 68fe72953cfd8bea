"""Gradio in a mount: its event handlers read its own session, after their request's response."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
import pytest

from tests.interop.serving import HTTP, Records, served


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing is asked or told over the network, nor written elsewhere."""
    quiet = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **quiet, "GRADIO_TEMP_DIR": str(tmp_path), "HF_HOME": str(tmp_path)}


@pytest.mark.timeout(180)  # its imports alone take seconds
def test_profile_in_event_handlers(
    redis_url: str, prefix: str, environment: dict[str, str], records: Records
) -> None:
    """Whoever signed in by `LoginButton` has an `OAuthProfile` there, beside a user of ours."""
    with (
        served("tests.interop.gradio_app", redis_url, prefix, environment=environment) as address,
        httpx2.Client(base_url=address, timeout=30) as client,
    ):
        client.get("/sign-in")
        token = client.cookies[HTTP.cookie]
        answer = client.get("/ui/login/callback", params={"_target_url": "/ui/"})
        # Its cookie is Secure, which browsers return to localhost and this client doesn't.
        theirs = answer.headers["set-cookie"].partition(";")[0]
        client.headers["cookie"] = f"{HTTP.cookie}={token}; {theirs}"
        call = "/ui/gradio_api/call/greet"
        ids = [client.post(call, json={"data": []}).json()["event_id"] for _ in range(2)]
        client.get("/release")
        for id in ids:
            assert 'data: ["hello Ann"]' in client.get(f"{call}/{id}").text
    assert records.read(token) == {"user_id": "bob"}
