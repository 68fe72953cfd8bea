"""What a user of the site sees."""

from fastapi.testclient import TestClient
from main import app


def browser() -> TestClient:
    return TestClient(app, base_url="https://testserver", headers={"Accept": "text/html"})


def sign_in(client: TestClient, name: str, password: str) -> str:
    page = client.post(
        "/login", params={"next": "/account"}, data={"name": name, "password": password}
    )
    return page.url.path


def test_sign_in() -> None:
    client = browser()
    assert client.get("/account").url.path == "/login"
    assert sign_in(client, "bob", "wrong") == "/login"
    assert sign_in(client, "nobody", "wrong") == "/login"
    assert sign_in(client, "bob", "builder") == "/account"
    client.post("/logout")
    assert client.get("/account").url.path == "/login"


def test_devices() -> None:
    laptop, phone = browser(), browser()
    sign_in(laptop, "bob", "builder")
    sign_in(phone, "bob", "builder")
    listed = laptop.get("/account").text
    id = listed.split('name="id" value="')[1].split('"')[0]
    laptop.post("/revoke", data={"id": id})
    assert phone.get("/account").url.path == "/login"
    assert laptop.get("/account").url.path == "/account"


def test_roles() -> None:
    ada, bob = browser(), browser()
    sign_in(ada, "ada", "engine")
    sign_in(bob, "bob", "builder")
    assert bob.get("/admin").status_code == 403
    assert ada.get("/admin").status_code == 200
    ada.post("/admin/block", data={"name": "bob"})
    assert bob.get("/account").url.path == "/login"
