"""What endpoints ask for."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import OAuth2PasswordBearer

from tests.integration.full_stack.app.core import security
from tests.integration.full_stack.app.core.config import settings
from tests.integration.full_stack.app.core.db import Session
from tests.integration.full_stack.app.models import TokenPayload, User

reusable_oauth2 = OAuth2PasswordBearer(tokenUrl=f"{settings.API_V1_STR}/login/access-token")


def get_db() -> Iterator[Session]:
    yield Session()


SessionDep = Annotated[Session, Depends(get_db)]
TokenDep = Annotated[str, Depends(reusable_oauth2)]


def get_current_user(session: SessionDep, token: TokenDep) -> User:
    payload = TokenPayload(sub=security.read(token))
    if payload.sub is None:
        raise HTTPException(403, "No token of ours")
    found = session.get(User, uuid.UUID(payload.sub))
    if found is None:
        raise HTTPException(404, "Nobody")
    if not found.is_active:
        raise HTTPException(400, "Not active")
    return found


CurrentUser = Annotated[User, Depends(get_current_user)]


def get_current_active_superuser(current_user: CurrentUser) -> User:
    if not current_user.is_superuser:
        raise HTTPException(403, "For administrators")
    return current_user
