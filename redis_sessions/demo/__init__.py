"""A FastAPI application that shows a session, and what Redis holds of it.

It is also an example of use: all that it knows of sessions are the names that users import, but
for the layout of a record, which only `view` knows.
"""

from redis_sessions.demo.app import (
    HOST_VARIABLE,
    KEY_VARIABLE,
    STORE_VARIABLE,
    create_app,
    from_environment,
)

__all__ = ["HOST_VARIABLE", "KEY_VARIABLE", "STORE_VARIABLE", "create_app", "from_environment"]
