"""The application, and its first user."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from tests.integration.full_stack.app import crud
from tests.integration.full_stack.app.api.routes import login, users
from tests.integration.full_stack.app.core.config import settings
from tests.integration.full_stack.app.core.db import Session
from tests.integration.full_stack.app.models import UserRegister

first = UserRegister(email=settings.FIRST_SUPERUSER, password=settings.FIRST_SUPERUSER_PASSWORD)
crud.create_user(session=Session(), user_create=first, is_superuser=True)

app = FastAPI(openapi_url=f"{settings.API_V1_STR}/openapi.json")

app.add_middleware(
    CORSMiddleware,
    allow_origins=settings.all_cors_origins,
    allow_credentials=True,
    allow_methods=["*"],
    allow_headers=["*"],
)

for each in (login, users):
    app.include_router(each.router, prefix=settings.API_V1_STR)
