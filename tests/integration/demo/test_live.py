"""What an open page is told over its WebSocket."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import cast

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from tests.integration.demo.process import JSON, PATIENCE, Demo, open_socket
from tests.support.servers import as_owner


@contextmanager
def signed_in(demo: Demo, name: str) -> Generator[httpx.Client]:
    with demo.browser() as client:
        client.post("/sign-in", data={"name": name})
        yield client


def code(socket: ClientConnection) -> int:
    """The code that this socket is closed with."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:  # what it is told before
            socket.recv(PATIENCE)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def next_told(socket: ClientConnection) -> list[str]:
    """The keys of the next change of this session; lists of devices don't count."""
    while (told := json.loads(socket.recv(PATIENCE))) == ["devices"]:
        pass
    return cast("list[str]", told)


def test_the_cart(browser: httpx.Client) -> None:
    """An item is added and removed, once for each click, and what isn't there isn't removed."""
    for path, item in (
        ("/add", "apple"),
        ("/add", "pear"),
        ("/add", "apple"),
        ("/remove", "apple"),
    ):
        browser.post(path, data={"item": item})
    page = browser.post("/remove", data={"item": "plum"})

    assert page.text.count('aria-label="Remove pear"') == 1
    assert page.text.count('aria-label="Remove apple"') == 1
    assert browser.get("/", headers=JSON).json()["session"]["data"]["cart"] == ["pear", "apple"]
    assert browser.post("/add", data={"item": "stone"}).status_code == 422


def test_what_other_requests_change_is_told(browser: httpx.Client) -> None:
    """An open page gets the names of the keys, as they change."""
    browser.post("/count")
    with open_socket(browser) as socket:
        browser.post("/add", data={"item": "apple"})
        assert next_told(socket) == ["cart"]
        browser.post("/count")
        assert next_told(socket) == ["count"]


def test_a_page_without_a_session_comes_again(browser: httpx.Client) -> None:
    """Without a session there is nothing to watch, and the socket is closed as usual."""
    with open_socket(browser) as socket:
        assert code(socket) == 1000


def test_every_way_to_sign_out_ends_the_sockets(demo: Demo) -> None:
    """Who is revoked, signed out everywhere else, or signed out in another tab, gets 1008."""
    with signed_in(demo, "Kurt") as laptop, signed_in(demo, "Kurt") as phone:
        id = phone.get("/", headers=JSON).json()["session"]["id"]
        with open_socket(laptop) as stays:
            with open_socket(phone) as socket:
                laptop.post("/revoke", data={"id": id})
                assert code(socket) == 1008
            phone.post("/sign-in", data={"name": "Kurt"})
            with open_socket(phone) as socket:
                laptop.post("/revoke-others")
                assert code(socket) == 1008
            laptop.post("/count")
            assert next_told(stays) == ["count"]
            laptop.post("/sign-out")
            assert code(stays) == 1008


def test_other_devices_are_told(demo: Demo) -> None:
    """A page is told when the same user signs in or out elsewhere, and nobody else's is."""
    with (
        signed_in(demo, "Hedwig") as laptop,
        signed_in(demo, "Rosa") as stranger,
        demo.browser() as phone,
        open_socket(laptop) as page,
        open_socket(stranger) as other,
    ):
        for path in ("/sign-in", "/sign-out"):
            phone.post(path, data={"name": "Hedwig"})
            assert json.loads(page.recv(PATIENCE)) == ["devices"]
        stranger.post("/count")
        assert json.loads(other.recv(PATIENCE)) == ["count"]


def test_leaving_a_page_that_is_told_something(findable_server: None) -> None:
    """A page that is left while it is told of a change, as by its own form, is no error."""
    with Demo() as demo, demo.browser() as browser:
        browser.post("/count")
        with ThreadPoolExecutor(1) as pool:
            counting = pool.submit(lambda: [browser.post("/count") for _ in range(100)])
            while not counting.done():
                with open_socket(browser):
                    pass
        assert all(answer.is_success for answer in counting.result())
        assert demo.stop(signal.SIGTERM) == (-signal.SIGTERM, "")


def test_several_workers(redis_url: str) -> None:
    """The sockets of all processes are told, whichever of them serves the request."""
    with (
        Demo("--workers", "2", "--store", as_owner(redis_url)) as demo,
        signed_in(demo, "Emmy") as browser,
        ExitStack() as stack,
    ):
        sockets = [stack.enter_context(open_socket(browser)) for _ in range(8)]
        with signed_in(demo, "Emmy"):
            assert [json.loads(socket.recv(PATIENCE)) for socket in sockets] == [["devices"]] * 8
        browser.post("/add", data={"item": "plum"})
        assert [next_told(socket) for socket in sockets] == [["cart"]] * 8
        browser.post("/sign-out")
        assert [code(socket) for socket in sockets] == [1008] * 8
