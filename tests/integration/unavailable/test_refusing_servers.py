"""A server that is there and says no, or forgets: who notices."""

from __future__ import annotations

import logging

import pytest

from redis_sessions import RedisStore, SessionManager, StoreUnavailableError
from tests.integration.unavailable.outages import assert_unavailable, everything
from tests.support.apps import client_of, manager_on, signed_in, token_in
from tests.support.redis_wire import Wire
from tests.support.servers import Server, as_owner, as_user


async def test_a_server_that_is_out_of_memory(private: Server, manager: SessionManager) -> None:
    """Writing is a 503, reading goes on: Redis isn't away."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            redis.ask("CONFIG", "SET", "maxmemory", "1")
            for _ in range(3):
                assert_unavailable(await browser.get("/do?set=a:1"))
                assert (await browser.get("/do")).json() == {"user_id": "alice"}
            redis.ask("CONFIG", "SET", "maxmemory", "0")
        assert (await browser.get("/do?set=a:1")).status_code == 200


@pytest.mark.parametrize("rights", ["-set", "-eval -evalsha", "-mget", "-@all"])
async def test_rights_that_are_taken_away(private: Server, rights: str) -> None:
    """A user who loses rights at run time: 503, not a bug of the application's."""
    with Wire(private.port) as redis:
        redis.ask("ACL", "SETUSER", "app", "on", ">sesame", "~*", "+@all")
        url = as_user(private.url, "app:sesame")
        async with client_of(everything(manager=manager_on(url)), raises=False) as browser:
            await signed_in(browser)
            redis.ask("ACL", "SETUSER", "app", *rights.split())
            assert_unavailable(await browser.get("/do?set=a:1"))
            redis.ask("ACL", "SETUSER", "app", "+@all")
            assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_a_user_who_is_locked_out(private: Server) -> None:
    """A user who is deleted, whose connections Redis closes: 503, and well again afterwards."""
    with Wire(private.port) as redis:
        rules = ("ACL", "SETUSER", "app", "on", ">sesame", "~*", "+@all")
        redis.ask(*rules)
        url = as_user(private.url, "app:sesame")
        async with client_of(everything(manager=manager_on(url)), raises=False) as browser:
            await signed_in(browser)
            redis.ask("ACL", "DELUSER", "app")
            assert_unavailable(await browser.get("/do?set=a:1"))
            redis.ask(*rules)
            assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_a_server_that_forgets_its_scripts(private: Server, manager: SessionManager) -> None:
    """SCRIPT FLUSH and a restart make EVALSHA fail: nobody notices."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            redis.ask("SCRIPT", "FLUSH")
        assert (await browser.get("/do?set=a:1")).status_code == 200
        private.kill()
        private.start()
        assert token_in(await browser.get("/do?set=b:2"))
        assert (await browser.get("/do")).json() == {"b": "2"}


async def test_connections_that_redis_closes(private: Server, manager: SessionManager) -> None:
    """CLIENT KILL (or a server's `timeout`) between two requests costs no request."""
    async with client_of(everything(manager=manager)) as browser:
        await signed_in(browser)
        with Wire(private.port) as redis:
            for _ in range(3):
                redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert (await browser.get("/do")).json()["user_id"] == "alice"
                redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                assert (await browser.get("/do?set=a:1")).status_code == 200


async def test_trouble_is_logged_once(
    redis_url: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every reason for a 503 is in the log: once when it begins, and once when it is over."""
    from redis.asyncio import Redis

    store = RedisStore(redis_url, prefix=prefix)
    async with Redis.from_url(as_owner(redis_url)) as admin:
        await admin.acl_setuser(
            prefix, enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"]
        )
        url = as_user(redis_url, f"{prefix.replace(':', '%3A')}:pw")
        store = RedisStore(url, prefix=prefix)
        await store.load("a" * 20)
        await admin.acl_setuser(prefix, commands=["-mget"])
        with caplog.at_level(logging.WARNING, "redis_sessions"):
            for _ in range(3):
                with pytest.raises(StoreUnavailableError) as refused:
                    await store.load("a" * 20)
                assert refused.value.reason == "refused"
            await admin.acl_setuser(prefix, commands=["+mget"])
            for _ in range(3):
                await store.load("a" * 20)
        await admin.acl_deluser(prefix)
    await store.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
