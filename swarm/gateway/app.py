"""Which route is whose, and what a caller is told when something goes wrong on the way."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from swarm.client.swarm import SwarmClient
from swarm.errors import SwarmError
from swarm.gateway.access import Access
from swarm.gateway.answers import Swarm
from swarm.gateway.anthropic.messages import CountTokens, Messages, MessagesRequest, TalkRequest
from swarm.gateway.description import STREAMED, Described, Description
from swarm.gateway.exchange import JSON_TYPE, Exchange, Gone, Handler
from swarm.gateway.failures import Failure, anthropic_form, failure_of, openai_form
from swarm.gateway.files import KINDS, Files
from swarm.gateway.health import Health
from swarm.gateway.metrics import Metrics
from swarm.gateway.models import Models
from swarm.gateway.openai.chat import Chat, ChatRequest
from swarm.gateway.openai.completions import CompletionRequest, Completions
from swarm.gateway.openai.listing import Listing
from swarm.gateway.openai.responses import KeptResponse, Responses
from swarm.gateway.openai.responses_request import ResponsesRequest
from swarm.gateway.openai.stored import StoredAnswers
from swarm.gateway.picture import Picture
from swarm.gateway.tokenizing import Detokenize, DetokenizeRequest, Tokenize, TokenizeRequest, TokenizerInfo

ANTHROPIC = "/v1/messages"


class Endpoint:
    """One route: who may ask, and what answers."""

    def __init__(self, handler: Handler, access: Access, metrics: Metrics, *, is_open: bool = False) -> None:
        """is_open: answers without a key, too."""
        self._handler = handler
        self._access = access
        self._metrics = metrics
        self._is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            await self._answer(exchange)
        except Gone:
            return
        except Failure as failure:
            self._metrics.refuse(failure.status)
            if not exchange.has_begun:
                told = _form(failure, scope["path"], exchange.id)
                await exchange.send_json(failure.status, told, failure.headers)

    async def _answer(self, exchange: Exchange) -> None:
        """Raises Failure for whatever goes wrong."""
        try:
            self._access.check(exchange.scope["headers"], is_open=self._is_open)
            await self._handler(exchange)
        except SwarmError as error:
            raise failure_of(error, 0.5) from None
        except (Failure, Gone):
            raise
        except Exception as error:  # a fault of ours: this caller hears of it, the others nothing
            raise exchange.fail(error) from None


def _tell_openly(request: Request, error: Exception) -> Response:
    """What the router refuses: methods that a route does not have."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    failure = Failure(error.status_code, f"{request.method} {path}: {error.detail}")
    return JSONResponse(_form(failure, path, ""), error.status_code, error.headers)


def _form(failure: Failure, path: str, request: str) -> object:
    """A failure as the interface tells it that a path belongs to. request: its id."""
    return anthropic_form(failure, request) if path.startswith(ANTHROPIC) else openai_form(failure)


def make_app(client: SwarmClient, access: Access, cache: Path) -> Starlette:
    """The application. cache: a directory for what nodes are asked for once.

    Its state has `end_answers`, for when the server is about to stop.
    """
    metrics = Metrics(lambda: client.beats)
    swarm, models = Swarm(client, metrics), Models(client, cache)

    described: list[Described] = []

    def route(
        path: str,
        method: str,
        handler: Handler,
        form: type[Struct] | None = None,
        *kinds: str,
        is_open: bool = False,
    ) -> BaseRoute:
        """form: of the body; kinds: of what is answered, where that is not JSON alone."""
        described.append(Described(path, method, form, kinds or (JSON_TYPE,)))
        return Route(path, Endpoint(handler, access, metrics, is_open=is_open), methods=[method])

    async def refuse(exchange: Exchange) -> None:
        raise Failure(404, f"there is no {exchange.scope['method']} {exchange.scope['path']}")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        swarm.close()
        models.close()

    listing, stored = Listing(models), StoredAnswers()
    kept = KeptResponse(stored)
    app = Starlette(
        routes=[
            route("/", "GET", Files(), None, "text/html"),
            route("/page/{name}", "GET", Files(), None, *KINDS.values()),
            route("/openapi.json", "GET", Description(described)),
            route("/swarm", "GET", Picture(swarm, models)),
            route("/health", "GET", Health(client), is_open=True),
            route("/v1/models", "GET", listing),
            route("/v1/models/{model:path}", "GET", listing),
            route("/v1/chat/completions", "POST", Chat(swarm, models), ChatRequest, *STREAMED),
            route("/v1/completions", "POST", Completions(swarm, models), CompletionRequest, *STREAMED),
            route("/v1/responses", "POST", Responses(swarm, models, stored), ResponsesRequest, *STREAMED),
            route("/v1/responses/{response}", "GET", kept),
            route("/v1/responses/{response}", "DELETE", kept),
            route(f"{ANTHROPIC}/count_tokens", "POST", CountTokens(models), TalkRequest),
            route(ANTHROPIC, "POST", Messages(swarm, models), MessagesRequest, *STREAMED),
            route("/metrics", "GET", metrics, None, "text/plain"),
            route("/tokenize", "POST", Tokenize(models), TokenizeRequest),
            route("/detokenize", "POST", Detokenize(models), DetokenizeRequest),
            route("/tokenizer_info", "GET", TokenizerInfo(models)),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _tell_openly},
    )
    app.state.end_answers = swarm.end_all
    app.router.redirect_slashes = False
    app.router.default = Endpoint(refuse, access, metrics)
    return app
