"""The page for people, as far as no browser is needed."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from tests.gateway.serving import MODEL, Gateway

PAGE = resources.files("swarm.gateway").joinpath("page")
NAMES = sorted(file.name for file in PAGE.iterdir())


def fetch(gateway: Gateway, path: str) -> tuple[int, dict[str, str], str]:
    connection = gateway.connect()
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()


@pytest.mark.parametrize("path", ["/", *(f"/page/{name}" for name in NAMES)])
def test_its_files_come_with_a_strict_policy(gateway: Gateway, path: str) -> None:
    status, headers, text = fetch(gateway, path)
    assert status == 200
    assert text
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/page/nothing.js", "/page/..%2fapp.py", "/page/__init__.py", "/page/"])
def test_nothing_else_is_served(gateway: Gateway, path: str) -> None:
    assert fetch(gateway, path)[0] == 404


@pytest.mark.parametrize("name", NAMES)
def test_it_asks_no_other_host_and_holds_no_code_in_its_markup(name: str) -> None:
    text = PAGE.joinpath(name).read_text("utf-8")
    assert not re.search(r"""(src|href|from|import|fetch\()\s*[=(]?\s*["'](https?:)?//""", text)
    assert "innerHTML" not in text
    assert "eval(" not in text
    if name.endswith(".html"):
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|<style", text)


def test_what_it_uses_is_there() -> None:
    html = PAGE.joinpath("index.html").read_text("utf-8")
    ids = set(re.findall(r'id="([\w-]+)"', html))
    for name in NAMES:
        text = PAGE.joinpath(name).read_text("utf-8")
        assert set(re.findall(r'find\("([\w-]+)"\)', text)) <= ids, name
        for used in re.findall(r'(?:from "\./|/page/)([\w.]+)"', text):
            assert used in NAMES, used


def test_the_picture_tells_who_holds_what(gateway: Gateway) -> None:
    status, _, told = gateway.ask("/swarm")
    assert status == 200
    (node,) = told["nodes"]
    assert [claim["part"] for claim in node["claims"]] == ["b 0-6 e"]
    assert [model["name"] for model in told["models"]] == [MODEL]
    assert told["plans"][0]["moves"] == []
    assert told["answers"] == []
