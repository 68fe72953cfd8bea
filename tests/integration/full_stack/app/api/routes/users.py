"""Users: themselves, and those who administrate them."""

from __future__ import annotations

import uuid

from fastapi import APIRouter, Depends, HTTPException

from tests.integration.full_stack.app import crud
from tests.integration.full_stack.app.api.deps import (
    CurrentUser,
    SessionDep,
    get_current_active_superuser,
)
from tests.integration.full_stack.app.core.security import get_password_hash, verify_password
from tests.integration.full_stack.app.models import (
    Message,
    UpdatePassword,
    User,
    UserPublic,
    UserRegister,
    UserUpdate,
)

router = APIRouter(prefix="/users", tags=["users"])


@router.post("/signup", response_model=UserPublic)
def register_user(session: SessionDep, user_in: UserRegister) -> UserPublic:
    return crud.create_user(session=session, user_create=user_in)


@router.get("/me", response_model=UserPublic)
def read_user_me(current_user: CurrentUser) -> UserPublic:
    return current_user


@router.patch("/me/password")
def update_password_me(
    *, session: SessionDep, body: UpdatePassword, current_user: CurrentUser
) -> Message:
    if not verify_password(body.current_password, current_user.hashed_password)[0]:
        raise HTTPException(400, "Wrong password")
    current_user.hashed_password = get_password_hash(body.new_password)
    session.add(current_user)
    session.commit()
    return Message(message="Changed")


@router.delete("/me")
def delete_user_me(session: SessionDep, current_user: CurrentUser) -> Message:
    if current_user.is_superuser:
        raise HTTPException(403, "Administrators stay")
    session.delete(current_user)
    session.commit()
    return Message(message="Deleted")


@router.patch(
    "/{user_id}",
    dependencies=[Depends(get_current_active_superuser)],
    response_model=UserPublic,
)
def update_user(*, session: SessionDep, user_id: uuid.UUID, user_in: UserUpdate) -> UserPublic:
    db_user = session.get(User, user_id)
    if not db_user:
        raise HTTPException(404, "Nobody")
    db_user = crud.update_user(session=session, db_user=db_user, user_in=user_in)
    return db_user  # noqa: RET504 - as in the template, whose change uses it


@router.delete("/{user_id}", dependencies=[Depends(get_current_active_superuser)])
def delete_user(session: SessionDep, current_user: CurrentUser, user_id: uuid.UUID) -> Message:
    user = session.get(User, user_id)
    if not user or user == current_user:
        raise HTTPException(404, "Nobody else")
    session.delete(user)
    session.commit()
    return Message(message="Deleted")
