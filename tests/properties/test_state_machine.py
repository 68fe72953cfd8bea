"""Browsers, tabs, workers and an administrator against a model of sessions in plain Python.

Every request goes through the real middleware to a real server. The model knows what a session
holds, who is signed in, which token opens it, until when, and what each response owes the browser.
PROFILE=torture runs many more, and longer, histories.
"""

from __future__ import annotations

import pytest

from tests.properties.state_machine.machine import run


@pytest.mark.timeout(400)  # hypothesis shrinks a failure for five minutes at most
def test_sessions_are_as_the_model_says(redis_url: str, prefix: str) -> None:
    """Whatever browsers, tabs, workers and an administrator do, in whatever order."""
    run(redis_url, prefix)
