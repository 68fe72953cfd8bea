"""Signed tokens and hashed passwords."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta

from tests.integration.full_stack.app.core.config import settings

ALGORITHM = "sha256"


def create_access_token(subject: object, expires_delta: timedelta) -> str:
    return sign({"sub": str(subject), "exp": time.time() + expires_delta.total_seconds()})


def sign(claims: dict[str, str | float]) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode()
    return f"{body}.{_tag(body)}"


def read(token: str) -> str | None:
    """Whose token it is, if it is one of ours that hasn't run out."""
    body, _, tag = token.partition(".")
    if not hmac.compare_digest(tag.encode(), _tag(body).encode()):
        return None
    claims = json.loads(urlsafe_b64decode(body))
    return claims["sub"] if claims["exp"] > time.time() else None


def _tag(body: str) -> str:
    return hmac.new(settings.SECRET_KEY.encode(), body.encode(), ALGORITHM).hexdigest()


def get_password_hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()  # enough for a test


def verify_password(plain_password: str, hashed_password: str) -> tuple[bool, str | None]:
    return get_password_hash(plain_password) == hashed_password, None
