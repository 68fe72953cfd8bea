"""Signing in, and passwords that were forgotten."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from fastapi.security import OAuth2PasswordRequestForm

from tests.integration.full_stack.app import crud
from tests.integration.full_stack.app.api.deps import CurrentUser, SessionDep
from tests.integration.full_stack.app.core import security
from tests.integration.full_stack.app.core.config import settings
from tests.integration.full_stack.app.models import (
    Message,
    NewPassword,
    Token,
    UserPublic,
    UserUpdate,
)

router = APIRouter(tags=["login"])
OUTBOX = list[str]()
"""The links that were sent by mail: their tokens."""


@router.post("/login/access-token")
def login_access_token(
    session: SessionDep, form_data: Annotated[OAuth2PasswordRequestForm, Depends()]
) -> Token:
    user = crud.authenticate(session=session, email=form_data.username, password=form_data.password)
    if not user or not user.is_active:
        raise HTTPException(400, "Wrong email or password, or not active")
    lifetime = timedelta(minutes=settings.ACCESS_TOKEN_EXPIRE_MINUTES)
    return Token(access_token=security.create_access_token(user.id, expires_delta=lifetime))


@router.post("/login/test-token", response_model=UserPublic)
def test_token(current_user: CurrentUser) -> UserPublic:
    return current_user


@router.post("/password-recovery/{email}")
def recover_password(email: str, session: SessionDep) -> Message:
    if session.find(email):
        OUTBOX.append(security.sign({"sub": email, "exp": time.time() + 60}))
    return Message(message="A mail was sent, if somebody has this address")


@router.get("/outbox")
def outbox() -> list[str]:
    """For the test alone, which gets no mail."""
    return OUTBOX


@router.post("/reset-password/")
def reset_password(session: SessionDep, body: NewPassword) -> Message:
    user = session.find(security.read(body.token) or "")
    if not user or not user.is_active:
        raise HTTPException(400, "No token of ours, or not active")
    crud.update_user(session=session, db_user=user, user_in=UserUpdate(password=body.new_password))
    return Message(message="Changed")
