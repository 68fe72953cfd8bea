"""The database: a dict that lasts as long as the process."""

from __future__ import annotations

import uuid

from tests.integration.full_stack.app.models import User

USERS = dict[uuid.UUID, User]()


class Session:
    """What the endpoints use of SQLModel's session of the same name."""

    def get(self, _: type[User], key: uuid.UUID) -> User | None:
        return USERS.get(key)

    def find(self, email: str) -> User | None:
        return next((user for user in USERS.values() if user.email == email), None)

    def add(self, user: User) -> None:
        USERS[user.id] = user

    def delete(self, user: User) -> None:
        del USERS[user.id]

    def commit(self) -> None: ...
