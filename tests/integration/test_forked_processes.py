"""One store in processes of their own, forked or not, where any warning is an error."""

from __future__ import annotations

import pytest

from tests.integration.scripts import run_script
from tests.support.servers import StartServer


def test_a_process_forks_after_import(start_server: StartServer) -> None:
    """The store is made, and never used, before the fork: both sides work."""
    server = start_server()
    run_script(
        server.url,
        """
        def child():
            assert asyncio.run(read(asyncio.run(write(1)))) == 1

        in_child(child)
        child()
        """,
    )


def test_a_process_forks_after_its_loop_ended(start_server: StartServer) -> None:
    """What a master process did before it forks (preloading) disturbs no worker."""
    server = start_server()
    run_script(
        server.url,
        """
        token = asyncio.run(write("parent"))

        def child(number):
            assert asyncio.run(read(token)) == "parent"
            mine = asyncio.run(write(number))
            gc.collect()
            assert asyncio.run(read(mine)) == number

        for number in range(3):
            in_child(child, number)
        assert asyncio.run(read(token)) == "parent"
        """,
    )


def test_a_process_forks_while_its_connections_are_open(start_server: StartServer) -> None:
    """A loop that pauses with open connections: the child has its own, the parent keeps its own."""
    server = start_server()
    run_script(
        server.url,
        """
        def child(token):
            for number in range(3):
                assert asyncio.run(read(token)) == "parent"
                gc.collect()
            assert asyncio.run(read(asyncio.run(write("child")))) == "child"

        with asyncio.Runner() as runner:
            token = runner.run(write("parent"))
            for _ in range(3):
                in_child(child, token)
                assert runner.run(read(token)) == "parent"
            runner.run(write("again", token))
            assert runner.run(read(token)) == "again"
        """,
    )


def test_a_process_forks_inside_its_loop(start_server: StartServer) -> None:
    """os.fork() in a running loop, with requests under way: neither side hangs or mixes up."""
    server = start_server()
    run_script(
        server.url,
        """
        def child(token):
            assert asyncio.run(read(token)) == "parent"
            gc.collect()
            assert asyncio.run(read(asyncio.run(write("child")))) == "child"

        async def main():
            token = await write("parent")
            reading = [asyncio.create_task(read(token)) for _ in range(10)]
            await asyncio.sleep(0)
            in_child(child, token)
            assert await asyncio.gather(*reading) == ["parent"] * 10
            in_child(child, token)
            assert await read(token) == "parent"

        asyncio.run(main())
        """,
    )


def test_a_forked_process_that_exits_as_usual(start_server: StartServer) -> None:
    """os.fork() and sys.exit() in the child (as pre-forking servers do): not a word at its end."""
    server = start_server()
    run_script(
        server.url,
        """
        token = asyncio.run(write("parent"))
        pid = os.fork()
        if pid == 0:
            assert asyncio.run(read(token)) == "parent"
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert asyncio.run(read(token)) == "parent"
        """,
    )


@pytest.mark.parametrize("first", ["read", "close"])
def test_a_child_that_runs_its_parents_loop(start_server: StartServer, first: str) -> None:
    """It opens connections of its own, closes these alone, and its parent's go on."""
    server = start_server()
    run_script(
        server.url,
        f"""
        from redis import Redis

        def connections():
            with Redis(port={server.port}, protocol=2) as redis:
                own = redis.client_id()
                return {{int(c["id"]) for c in redis.client_list()}} - {{own}}

        loop = asyncio.new_event_loop()
        token = loop.run_until_complete(write("parent"))
        theirs = connections()
        assert theirs

        def child():
            if {first!r} == "close":
                loop.run_until_complete(manager.close())
            assert loop.run_until_complete(read(token)) == "parent"
            assert theirs < connections()
            loop.run_until_complete(manager.close())
            assert theirs == connections()

        in_child(child)
        assert loop.run_until_complete(read(token)) == "parent"
        assert theirs == connections()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        """,
    )


def test_a_loop_that_is_run_by_hand(start_server: StartServer) -> None:
    """run_until_complete(), shutdown_asyncgens(), close(): as asyncio.run() does it."""
    server = start_server()
    run_script(
        server.url,
        """
        for _ in range(3):
            loop = asyncio.new_event_loop()
            token = loop.run_until_complete(write(1))
            assert loop.run_until_complete(read(token)) == 1
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        """,
    )


def test_a_script_that_ends_in_an_exception(start_server: StartServer) -> None:
    """An exception, or a cancellation, in asyncio.run() leaves no warning behind."""
    server = start_server()
    run_script(
        server.url,
        """
        async def fails():
            await write(1)
            raise KeyError("expected")

        async def is_cancelled():
            reading = [asyncio.create_task(read(await write(1))) for _ in range(5)]
            await asyncio.sleep(0)
            asyncio.current_task().cancel()
            await asyncio.gather(*reading)

        for main, expected in ((fails, KeyError), (is_cancelled, asyncio.CancelledError)):
            try:
                asyncio.run(main())
            except expected:
                pass
            else:
                raise AssertionError(main)
        assert asyncio.run(read(asyncio.run(write(2)))) == 2
        """,
    )


def test_uvloop_in_a_process_of_its_own(start_server: StartServer) -> None:
    """uvloop.run() many times, and asyncio.run() in between."""
    server = start_server()
    run_script(
        server.url,
        """
        import uvloop

        token = uvloop.run(write(0))
        for number in range(5):
            assert asyncio.run(read(token)) == number
            uvloop.run(write(number + 1, token))
        """,
    )
