"""What is done with users, for all endpoints."""

from __future__ import annotations

from tests.integration.full_stack.app.core.db import Session
from tests.integration.full_stack.app.core.security import get_password_hash, verify_password
from tests.integration.full_stack.app.models import User, UserRegister, UserUpdate


def create_user(*, session: Session, user_create: UserRegister, is_superuser: bool = False) -> User:
    hashed = get_password_hash(user_create.password)
    user = User(email=user_create.email, hashed_password=hashed, is_superuser=is_superuser)
    session.add(user)
    session.commit()
    return user


def update_user(*, session: Session, db_user: User, user_in: UserUpdate) -> User:
    db_user.is_active = user_in.is_active
    if user_in.password:
        db_user.hashed_password = get_password_hash(user_in.password)
    session.commit()
    return db_user


def authenticate(*, session: Session, email: str, password: str) -> User | None:
    found = session.find(email)
    return found if found and verify_password(password, found.hashed_password)[0] else None
