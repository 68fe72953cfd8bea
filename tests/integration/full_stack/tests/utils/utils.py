"""Headers that sign a request in."""

from __future__ import annotations

from fastapi.testclient import TestClient

from tests.integration.full_stack.app.core.config import settings


def get_superuser_token_headers(client: TestClient) -> dict[str, str]:
    form = {"username": settings.FIRST_SUPERUSER, "password": settings.FIRST_SUPERUSER_PASSWORD}
    answer = client.post(f"{settings.API_V1_STR}/login/access-token", data=form)
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}
