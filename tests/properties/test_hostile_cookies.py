"""Tokens that are none: they read as no session, and never reach Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from redis_sessions import HeaderTransport, MemoryStore, RedisStore, Session, SessionToken
from tests.properties.strategies import examples
from tests.support.asgi import COOKIE, cookie
from tests.support.servers import StartServer, as_owner
from tests.support.site import Site, assert_rejected

GOOD = "A" * 64
FORM = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

MALFORMED = {
    "empty": [b""],
    "one character": [b"A"],
    "short by one": [b"A" * 63],
    "long by one": [b"A" * 65],
    "the id alone": [b"A" * 20],
    "twice a token": [b"A" * 128],
    "the other base64 alphabet": [b"A" * 63 + b"+"],
    "a slash": [b"A" * 63 + b"/"],
    "padding": [b"A" * 63 + b"="],
    "a dot": [b"A" * 32 + b"." + b"A" * 31],
    "a space inside": [b"A" * 32 + b" " + b"A" * 31],
    "a newline after": [b"A" * 64 + b"\n"],
    "a newline at the end": [b"A" * 63 + b"\n"],
    "a carriage return after": [b"A" * 64 + b"\r"],
    "NUL": [b"A" * 63 + b"\0"],
    "a glob": [b"*" * 64],
    "a key's separator": [b"A" * 20 + b":" + b"A" * 43],
    "another key's name": [b"../" * 21 + b"A"],
    "quoted": [b'"' + b"A" * 64 + b'"'],
    "quoted to the right length": [b'"' + b"A" * 62 + b'"'],
    "percent-encoded": [b"%41" * 64],
    "latin-1": [b"\xe9" * 64],
    "UTF-8": ["é".encode() * 32],
    "digits that aren't ASCII": ["٣".encode() * 64],
    "full-width letters": ["\uff21".encode() * 64],
    "invalid UTF-8": [b"\xff\xfe" * 32],
    "100 kB": [b"A" * 100_000],
    "100 kB of separators": [b"=" * 100_000],
    "null, as an expired one says": [b"null"],
    "JSON": [b'{"user_id":1}'],
    "pickle": [b"\x80\x04}q\x00."],
    "twice in one header": [b"x; " + COOKIE.encode() + b"=y"],
    "in several headers": [b"x", b"y", b"z"],
    "10,000 of our name": [(b"; " + COOKIE.encode() + b"=").join([b"x"] * 10_000)],
    "1,000 headers": [b"x"] * 1000,
}

NOT_OURS = {
    "no cookie": [],
    "an empty header": [b""],
    "separators": [b";;; ;=;; ="],
    "another name": [b"session=" + GOOD.encode()],
    "another case": [b"__host-SESSION=" + GOOD.encode()],
    "a name that ends like ours": [b"x" + cookie(GOOD)],
    "a name that begins like ours": [COOKIE.encode() + b"x=" + GOOD.encode()],
    "our name without a value": [COOKIE.encode()],
    "our name inside a value": [b"a=" + cookie(GOOD)],
    "our name inside a quoted value": [b'a="b, ' + cookie(GOOD) + b'"'],
    "a space before the sign": [COOKIE.encode() + b" =" + GOOD.encode()],
    "not ASCII": [b"\xff\xfe=\xff"],
}


@pytest.fixture
async def watched(start_server: StartServer, prefix: str) -> AsyncIterator[tuple[Site, Redis]]:
    """A site whose store is connected already, and a client that counts its server's commands."""
    server = start_server()
    store = RedisStore(server.url, prefix=prefix)
    site = Site(store)
    await site.store_session({"n": 1})
    async with Redis.from_url(as_owner(server.url)) as client:
        await client.ping()
        yield site, client
    await store.close()


async def calls(client: Redis) -> dict[str, int]:
    """How often each command was called on this server, but for asking this."""
    stats: dict[str, dict[str, Any]] = await client.info("commandstats")
    return {name: entry["calls"] for name, entry in stats.items() if name != "cmdstat_info"}


@pytest.mark.standard(5)
@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_token_sends_no_command(
    values: list[bytes], watched: tuple[Site, Redis]
) -> None:
    """A malformed cookie is no session, counted once, and Redis doesn't hear of it."""
    site, client = watched
    before = await calls(client)

    reply = await site.visit(*(COOKIE.encode() + b"=" + value for value in values))

    assert_rejected(site, reply, "malformed token", None)
    assert reply.cookies == []
    assert await calls(client) == before


@pytest.mark.parametrize("headers", NOT_OURS.values(), ids=NOT_OURS)
async def test_what_is_no_cookie_of_ours_is_nothing(
    headers: list[bytes], watched: tuple[Site, Redis]
) -> None:
    """Other cookies cost no command, and aren't even counted."""
    site, client = watched
    before = await calls(client)

    reply = await site.visit(*headers)

    assert (reply.error, reply.status, reply.seen) == (None, 200, {})
    assert not site.manager.counts
    assert site.events == []
    assert await calls(client) == before


def is_malformed(value: bytes) -> bool:
    text = value.strip(b" \t").decode("latin-1")
    return b";" not in value and not (len(text) == 64 and set(text) <= FORM)


def replaced(at: int, byte: bytes) -> bytes:
    return GOOD[:at].encode() + byte + GOOD[at + 1 :].encode()


@examples
@given(
    value=st.one_of(
        st.binary(max_size=80),
        st.binary(min_size=64, max_size=64),
        st.text(sorted(FORM), max_size=130).map(str.encode),
        # a token with one character replaced
        st.builds(replaced, st.integers(0, 63), st.binary(min_size=1, max_size=1)),
    ).filter(is_malformed)
)
async def test_any_malformed_bytes_send_no_command(
    value: bytes, watched: tuple[Site, Redis]
) -> None:
    """Whatever bytes a cookie holds: unless they spell a token, Redis doesn't hear of them."""
    site, client = watched
    site.manager.counts.clear()
    site.events.clear()
    before = await calls(client)

    reply = await site.visit(COOKIE.encode() + b"=" + value)

    assert_rejected(site, reply, "malformed token", None)
    assert await calls(client) == before


@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_token_is_never_adopted(values: list[bytes]) -> None:
    """Who writes with a malformed cookie gets a session under an id drawn for it."""
    site = Site(MemoryStore())

    reply = await site.visit(
        *(COOKIE.encode() + b"=" + value for value in values), act=lambda s: s.update(n=1)
    )

    assert reply.error is None
    assert reply.token.value.encode() not in values
    assert (await site.visit(reply.token)).seen == {"n": 1}


async def test_an_unknown_token_is_never_adopted() -> None:
    """A well-formed token that names nothing never becomes the name of something."""
    store = MemoryStore()
    site = Site(store)
    wished = SessionToken.generate()

    reply = await site.visit(wished, act=lambda s: s.update(n=1))

    assert_rejected(site, reply, "unknown id", wished.id)
    assert reply.token.id != wished.id
    assert await store.load(wished.id) is None


async def test_at_most_three_tokens_are_tried() -> None:
    """However many well-formed cookies of our name arrive, three are looked up."""
    site = Site(MemoryStore())
    tokens = [SessionToken.generate() for _ in range(1000)]

    reply = await site.visit(b"; ".join(cookie(token) for token in tokens))

    assert (reply.error, reply.status, reply.seen) == (None, 200, {})
    assert site.manager.counts["rejected: unknown id"] == 3
    assert {event.id for event in site.events} <= {token.id for token in tokens}


@pytest.mark.standard(24)
@pytest.mark.parametrize("joined", [True, False], ids=["one header", "several headers"])
async def test_one_live_token_among_others_opens(joined: bool) -> None:
    """Malformed cookies and repetitions don't count against the three; two dead ones do no harm."""
    site = Site(MemoryStore())
    live = await site.store_session({"n": 1})
    dead = [SessionToken.generate() for _ in range(2)]
    crowd = [cookie("x")] * 500 + [cookie(token) for token in dead] * 50 + [cookie(live)] * 50

    reply = await site.visit(*([b"; ".join(crowd)] if joined else crowd))

    assert (reply.error, reply.seen) == (None, {"n": 1})
    assert site.manager.counts["rejected: malformed token"] == 1
    assert site.manager.counts["rejected: unknown id"] == 2


@pytest.mark.standard(24)
async def test_two_live_tokens_open_nothing() -> None:
    """More than one that opens is ambiguous: no session, an event, and both live on."""
    site = Site(MemoryStore())
    one, other = await site.store_session({"n": 1}), await site.store_session({"n": 2})

    reply = await site.visit(cookie(one) + b"; " + cookie(other))

    assert_rejected(site, reply, "several tokens open a session", None)
    assert (await site.visit(one)).seen == {"n": 1}
    assert (await site.visit(other)).seen == {"n": 2}


@pytest.mark.parametrize("padding", [b" ", b"\t", b"  \t "], ids=repr)
async def test_blanks_around_a_token_are_ignored(padding: bytes) -> None:
    """Optional white space around a cookie's value isn't part of it (RFC 6265, 5.2)."""
    site = Site(MemoryStore())
    token = await site.store_session({"n": 1})

    reply = await site.visit(
        b"a=b;" + padding + COOKIE.encode() + b"=" + padding + token.value.encode() + padding
    )

    assert reply.seen == {"n": 1}


@pytest.mark.parametrize(
    "value", [b"", b"x", b"A" * 65, b"\xff" * 64, b'"' + b"A" * 64 + b'"', b"A" * 100_000]
)
async def test_a_malformed_header_is_no_session(value: bytes) -> None:
    """The header transport's tokens are judged like cookies."""
    site = Site(MemoryStore(), transport=HeaderTransport())

    reply = await site.visit(headers=[(b"x-session-token", value)])

    assert_rejected(site, reply, "malformed token", None)


@pytest.mark.standard(34, "ASVS 16.2.5")
async def test_events_and_errors_name_no_secret() -> None:
    """What is reported of a token that opens nothing is its id."""
    site = Site(MemoryStore())
    token = SessionToken.generate()

    def act(session: Session) -> None:
        session["n"] = 1

    await site.visit(cookie(token), act=act)

    told = repr(site.events) + repr(site.manager.counts) + repr(token) + str(token) + f"{token}"
    assert token.value[20:] not in told
    assert token.id in told
