"""GET / and /page/NAME: the page for people, from files beside this one. It asks no other host anything."""

from __future__ import annotations

from functools import cache
from importlib import resources

from swarm.gateway.exchange import Exchange
from swarm.gateway.failures import Failure

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Files:
    """The page's files."""

    async def __call__(self, exchange: Exchange) -> None:
        name = exchange.scope["path_params"].get("name", "index.html")
        found = _read().get(name)
        if found is None:
            raise Failure(404, f"there is no {exchange.scope['path']}")
        await exchange.send_bytes(200, found, KINDS[name.rpartition(".")[2]], HEADERS)


@cache
def _read() -> dict[str, bytes]:
    """All of them, by name."""
    files = resources.files("swarm.gateway").joinpath("page").iterdir()
    return {file.name: file.read_bytes() for file in files if file.name.rpartition(".")[2] in KINDS}
