"""A process forks while its loop watches, and keeps near copies."""

from __future__ import annotations

from tests.integration.scripts import run_script
from tests.support.servers import StartServer

OPTIONS = "client_cache=0.5&socket_timeout=2.5"
"""A heartbeat every sixth of a second, which a busy machine is in time for."""

WATCHED = """
from secrets import token_bytes

store = RedisStore(sys.argv[1])
told, id = [], "x" * 20

def kept():
    copy = store.near_copy(id)  # there is none while a busy server is late with its heartbeat
    return copy is not None and copy.value

async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)

async def store_new(store=store):
    value, found = token_bytes(80), await store.load(id)
    await store.commit(id, found and found[:33], value, 60_000)
    return value

async def begin():
    store.watch(id, told.append)
    value = await store_new()
    await until(lambda: told[-1:] == [value] and kept() == value)
    return value

async def change_elsewhere():
    other = RedisStore(sys.argv[1])
    value = await store_new(other)
    await other.close()
    await until(lambda: told[-1] == value)
"""


def test_a_child_that_runs_its_parents_loop(start_server: StartServer) -> None:
    """The child sends no heartbeat for its parent, and watches for itself; the parent goes on."""
    server = start_server()
    run_script(
        f"{server.url}?{OPTIONS}",
        WATCHED
        + f"PORT = {server.port}"
        + """
from redis import Redis

loop = asyncio.new_event_loop()
value = loop.run_until_complete(begin())

def roles():
    with Redis(port=PORT, protocol=2) as redis:
        return redis.info("commandstats")["cmdstat_role"]["calls"]

def child():
    before, asked = list(told), roles()
    assert loop.run_until_complete(first()) is None
    loop.run_until_complete(asyncio.sleep(0.3))  # the parent's timers are due
    assert (told, roles()) == (before, asked)
    assert loop.run_until_complete(begin())

async def first():
    return store.near_copy(id)

in_child(child)
loop.run_until_complete(change_elsewhere())
loop.run_until_complete(store.close())
loop.run_until_complete(loop.shutdown_asyncgens())
loop.close()
""",
    )


def test_a_child_with_a_loop_of_its_own(start_server: StartServer) -> None:
    """It has no copies of its parent's, and is told what it watches itself."""
    server = start_server()
    run_script(
        f"{server.url}?{OPTIONS}",
        WATCHED
        + """
async def in_its_own():
    assert store.near_copy(id) is None
    told.clear()
    await begin()
    await change_elsewhere()
    await store.close()

with asyncio.Runner() as runner:
    runner.run(begin())
    in_child(lambda: asyncio.run(in_its_own()))
    runner.run(change_elsewhere())
    runner.run(store.close())
""",
    )


def test_a_loop_that_ends_while_it_watches(start_server: StartServer) -> None:
    """Without a word, and the next loop watches anew."""
    server = start_server()
    run_script(
        f"{server.url}?{OPTIONS}",
        WATCHED
        + """
for _ in range(3):
    asyncio.run(begin())
    gc.collect()
""",
    )
