"""What goes in and out, and what is kept."""

from __future__ import annotations

import uuid

from pydantic import BaseModel, Field


class UserPublic(BaseModel):
    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    email: str
    is_active: bool = True
    is_superuser: bool = False


class User(UserPublic):
    hashed_password: str


class UserRegister(BaseModel):
    email: str
    password: str


class UserUpdate(BaseModel):
    email: str | None = None
    is_active: bool = True
    password: str | None = None


class UpdatePassword(BaseModel):
    current_password: str
    new_password: str


class NewPassword(BaseModel):
    token: str
    new_password: str


class Message(BaseModel):
    message: str


class Token(BaseModel):
    access_token: str
    token_type: str = "bearer"


class TokenPayload(BaseModel):
    sub: str | None = None
