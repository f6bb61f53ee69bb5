"""GET /metrics of a node: a small HTTP server on a thread of its own, which reads the node's last beat."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import disable_created_metrics, start_http_server

from swarm.errors import RequestError
from swarm.exposition import registry_of
from swarm.messages.members import Beat


def serve_metrics(host: str, port: int, said: Callable[[], Beat | None]) -> None:
    """Until the process ends. said: the node's last beat. Raises RequestError where the address cannot be had."""

    def read() -> list[Beat]:
        beat = said()
        return [] if beat is None else [beat]

    disable_created_metrics()
    try:
        start_http_server(port, host, registry_of(read))
    except OSError as error:
        raise RequestError(f"metrics cannot be served on {host} port {port}: {error.strerror}") from None
