"""Who may ask."""

from __future__ import annotations

import base64

import pytest

from swarm.gateway.access import Access
from swarm.gateway.failures import CHALLENGE, Failure

KEY = b"sesam"
NAMES = ("localhost", "kitchen.local")
HERE = (b"host", b"127.0.0.1:8080")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer sesam")],
        [(b"authorization", b"bearer  sesam ")],
        [(b"x-api-key", b"sesam")],
        [(b"authorization", b"Bearer "), (b"x-api-key", b"sesam")],
        [(b"authorization", b"Basic " + base64.b64encode(b"me:sesam"))],
    ],
)
def test_the_key_comes_in_either_header(headers: list[tuple[bytes, bytes]]) -> None:
    Access(KEY, NAMES).check([HERE, *headers], is_open=False)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"Bearer sesame")],
        [(b"authorization", b"Basic sesam")],
        [(b"authorization", b"Basic !")],
        [(b"authorization", b"Basic " + base64.b64encode(b"sesam"))],
        [(b"authorization", "Bearer sésam".encode())],
        [(b"x-api-key", b"\xff\xfe")],
    ],
)
def test_without_the_key_nothing_but_an_open_route_answers(headers: list[tuple[bytes, bytes]]) -> None:
    access = Access(KEY, NAMES)
    with pytest.raises(Failure) as caught:
        access.check([HERE, *headers], is_open=False)
    assert caught.value.status == 401
    assert caught.value.headers == {"www-authenticate": CHALLENGE}
    access.check([HERE, *headers], is_open=True)


@pytest.mark.parametrize(
    "name",
    [b"localhost", b"LOCALHOST:8080", b"Kitchen.local", b"127.0.0.1:80", b"10.0.0.7:8080", b"[::1]", b"[::1]:8080"],
)
def test_a_server_answers_to_its_names_and_addresses(name: bytes) -> None:
    Access(None, NAMES).check([(b"host", name), (b"origin", b"http://" + name)], is_open=False)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"evil.example:8080")],
        [],
        [(b"host", b"localhost.evil.example")],
        [(b"host", b"localhost"), (b"origin", b"https://evil.example")],
        [(b"host", b"localhost"), (b"origin", b"null")],
        [(b"host", b"localhost:8080"), (b"origin", b"http://localhost:3000")],
        [(b"host", b"10.0.0.7:8080"), (b"origin", b"http://10.0.0.9:8080")],
    ],
)
def test_pages_of_other_sites_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Failure) as caught:
        Access(None, NAMES).check(headers, is_open=True)
    assert caught.value.status == 403
