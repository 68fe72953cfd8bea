"""What handlers do, to the session and to the model."""

from __future__ import annotations

from typing import Final

from hypothesis import strategies as st

from redis_sessions import Session
from tests.properties.state_machine.model import DAY, ROTATE_ON
from tests.properties.state_machine.visits import Act, Data

MINUTE: Final = 60
USERS: Final = ("A", "B")

keys: Final = st.sampled_from(["a", "b", "c", ROTATE_ON])
users: Final = st.sampled_from(USERS)
aliases: Final = st.sampled_from(["s", "t"])
"""The values of one alias. Who signs in with one has proved it by a method of the same name."""
acts: Final[st.SearchStrategy[Act]] = st.one_of(
    st.tuples(st.just("set"), keys),
    st.tuples(st.just("nested"), keys),
    st.tuples(st.just("remove"), keys),
    st.tuples(st.just("copy"), keys, keys),
    st.tuples(st.just("sign in"), users),
    st.tuples(st.just("sign in by method"), users),
    st.tuples(st.just("sign in with alias"), users, aliases),
    st.tuples(st.just("sign out")),
    st.tuples(st.just("sign out by method")),
    st.tuples(st.just("sign out of everything")),
    st.tuples(st.just("clear")),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("authenticated"), st.sampled_from([(), ("otp",)])),
    st.tuples(st.just("untouched")),
    st.tuples(
        st.just("expire in"),
        st.sampled_from([MINUTE, 2 * DAY, 30 * DAY]),
        st.sampled_from([None, True, False]),
    ),
    st.tuples(st.just("revoke this")),
    st.tuples(st.just("revoke all")),
    st.tuples(st.just("revoke others")),
    st.tuples(st.just("revoke by"), aliases),
)
statuses: Final = st.sampled_from([200, 200, 200, 303, 404, 500, None])
"""None: the handler raises."""


def change(data: Data, act: Act, tag: str) -> bool:
    """What is done to the data alone, of the session or of the model."""
    match act:
        case ("set", str(key)):
            data[key] = tag
        case ("nested", str(key)):
            inner = data.get(key)
            if isinstance(inner, dict):
                inner["inside"].append(tag)
            else:
                data[key] = {"inside": [tag]}
        case ("copy", str(key), str(to)):
            if key in data:
                data[to] = data[key]
        case ("remove", str(key)):
            data.pop(key, None)
        case ("sign in", str(user)):
            data["user_id"] = user
        case ("sign out",):
            data.pop("user_id", None)
        case ("sign in by method", str(user)) if isinstance(data, Session):
            data.sign_in(user)
        case ("sign in with alias", str(user), str(value)) if isinstance(data, Session):
            data.sign_in(user, methods=[value], aliases={"sid": value})
        case ("sign in by method", str(user)) | ("sign in with alias", str(user), _):
            data["user_id"] = user
        case ("sign out by method",) if isinstance(data, Session):
            data.sign_out()
        case ("sign out by method",):
            data.pop("user_id", None)
        case ("sign out of everything",):
            for key in list(data):
                del data[key]
        case _:
            return False
    return True
