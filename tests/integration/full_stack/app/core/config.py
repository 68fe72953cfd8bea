"""What the environment says, or else what stands here."""

from __future__ import annotations

import os
from typing import Any


class Settings:
    API_V1_STR: str = "/api/v1"
    SECRET_KEY: str = "the key of tokens"
    ACCESS_TOKEN_EXPIRE_MINUTES: int = 60
    ENVIRONMENT: str = "local"
    FRONTEND_HOST: str = "http://localhost:5173"
    FIRST_SUPERUSER: str = "admin@example.com"
    FIRST_SUPERUSER_PASSWORD: str = "changethis"

    def __init__(self) -> None:
        for name in type(self).__annotations__:
            value: Any = os.environ.get(name, getattr(type(self), name, None))
            if value is None:
                raise ValueError(f"{name} is missing")
            setattr(self, name, value)

    @property
    def all_cors_origins(self) -> list[str]:
        return [self.FRONTEND_HOST]


settings = Settings()
