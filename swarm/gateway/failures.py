"""What goes wrong for a caller, and how each interface says it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.errors import PeerError, RequestError, SwarmError

FULL = ("KV_FULL", "OVERLOADED")  # codes of a swarm that has no room at the moment
RETRY_SECONDS = 5.0
CHALLENGE = 'Bearer, Basic realm="swarm"'  # programs send a key by the first, browsers ask for one by the second
UNREAD = (408, 413)  # some of the request has not been read: nothing can follow it on its connection
OPENAI_TYPES = {403: "permission_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
OPENAI_CODES = {
    401: "invalid_api_key",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    503: "server_is_overloaded",
}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


class Failure(Exception):  # noqa: N818  it is what the caller is told
    """A request that is not answered.

    status: of HTTP. field: of the request, where one is wrong. code: OpenAI's word for it, where there is a better one than
    the status has. retry_seconds: when it may be tried again; None: that says nothing.
    """

    def __init__(
        self, status: int, message: str, field: str | None = None, code: str = "", retry_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code
        self.retry_seconds = retry_seconds

    @property
    def headers(self) -> dict[str, str]:
        """Beside those of any answer."""
        found = {"www-authenticate": CHALLENGE} if self.status == 401 else {}
        if self.status in UNREAD:
            found["connection"] = "close"
        if self.retry_seconds is not None:
            found["retry-after"] = f"{self.retry_seconds:.2f}"
        return found


def openai_form(failure: Failure) -> dict[str, object]:
    """https://platform.openai.com/docs/guides/error-codes"""
    return {
        "error": {
            "message": failure.message,
            "type": OPENAI_TYPES.get(failure.status, "invalid_request_error"),
            "param": failure.field,
            "code": failure.code or OPENAI_CODES.get(failure.status),
        }
    }


def anthropic_form(failure: Failure, request: str) -> dict[str, object]:
    """https://docs.anthropic.com/en/api/errors"""
    told = {"type": ANTHROPIC_TYPES.get(failure.status, "invalid_request_error"), "message": failure.message}
    return {"type": "error", "error": told, "request_id": request}


def failure_of(error: SwarmError, jitter: float) -> Failure:
    """What a caller is told of an error of the swarm. jitter: from 0 to 1, so that not all who wait come back at once."""
    match error:
        case RequestError():
            return Failure(400, str(error))
        case PeerError(code=code) if code in FULL:
            return Failure(429, f"the swarm is full: {error}", retry_seconds=RETRY_SECONDS * (0.5 + jitter))
        case PeerError(code="UNKNOWN_MODEL"):
            return Failure(404, str(error), "model", "model_not_found")
        case PeerError():
            return Failure(503, str(error), retry_seconds=RETRY_SECONDS * (0.5 + jitter))
        case _:
            return Failure(500, str(error))


def unsupported(field: str, told: str) -> Failure:
    """A field that would change the answer in a way that there is not."""
    return Failure(400, f"{field}: {told}", field, "unsupported_parameter")


def wrong(field: str, told: str) -> Failure:
    """A field with a value that it cannot have."""
    return Failure(400, f"{field}: {told}", field)


def headers_of(fields: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
