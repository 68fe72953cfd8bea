"""Headers that sign a request in."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.integration.full_stack.app.core.config import settings


def user_authentication_headers(*, client: TestClient, email: str, password: str) -> dict[str, str]:
    form = {"username": email, "password": password}
    answer = client.post(f"{settings.API_V1_STR}/login/access-token", data=form)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}
