"""sqladmin behind the application's sessions: one sign-in, and a blocked user is out at once."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from html import escape
from typing import Annotated, Any

from fastapi import FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import StaticPool

from redis_sessions import SessionManager, SessionMiddleware, get_session
from redis_sessions.fastapi import PrincipalDep, SessionDep

PASSWORDS = {"ada": "engine", "bob": "builder"}  # a real table has slow hashes instead

engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
database = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"

    name: Mapped[str] = mapped_column(primary_key=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_blocked: Mapped[bool] = mapped_column(default=False)


async def find(name: str | None) -> User | None:
    """The user, unless there is none or it is blocked."""
    async with database() as rows:
        return await rows.scalar(select(User).where(User.name == name, ~User.is_blocked))


async def check(name: str, password: str) -> User | None:
    return await find(name) if PASSWORDS.get(name) == password else None


manager = SessionManager(
    os.environ.get("REDIS_URL", "embedded://"), os.environ["SESSION_SECRET_KEY"]
)


class UserAdmin(ModelView, model=User):
    column_list = (User.name, User.is_admin, User.is_blocked)
    form_columns = (User.is_admin, User.is_blocked)
    can_create = can_delete = False

    async def after_model_change(
        self, data: dict[str, Any], model: User, is_created: bool, request: Request
    ) -> None:
        if model.is_blocked:
            await manager.revoke_all(model.name)


class Backend(AuthenticationBackend):
    """The session of the application. sqladmin's own, in a signed cookie, is left out."""

    def __init__(self) -> None:
        self.middlewares = []

    async def login(self, request: Request) -> bool:
        form = await request.form()
        user = await check(str(form["username"]), str(form["password"]))
        if user is None or not user.is_admin:
            return False
        get_session(request).sign_in(user.name)
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        user = await find(get_session(request).principal)  # rights are asked for at each request
        return user is not None and user.is_admin


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with database.begin() as rows:
        rows.add_all([User(name="ada", is_admin=True), User(name="bob")])
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan, default_response_class=HTMLResponse)
app.add_middleware(SessionMiddleware, manager=manager, https_only="DEVELOPMENT" not in os.environ)
Admin(app, engine, authentication_backend=Backend()).add_view(UserAdmin)


@app.get("/")
async def home(session: SessionDep) -> str:
    name = session.principal
    return (
        '<!doctype html><html lang="en"><title>Admin</title>'
        f'<p>{escape(name or "nobody")}, <a href="/admin">admin</a></p>'
        '<meta name="viewport" content="width=device-width"><form method="post" action="/login">'
        '<label>Name <input name="name" autocomplete="username"></label>'
        '<label>Password <input name="password" type="password" autocomplete="current-password">'
        "</label><button>Sign in</button></form>"
    )


@app.post("/login")
async def login(
    session: SessionDep, name: Annotated[str, Form()], password: Annotated[str, Form()]
) -> RedirectResponse:
    user = await check(name, password)
    if user is None:
        raise HTTPException(403)
    session.sign_in(user.name)
    return RedirectResponse("/", 303)


@app.get("/me")
async def me(user: PrincipalDep) -> str:
    return escape(user)
