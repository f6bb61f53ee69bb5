"""GET /openapi.json: what this gateway can be asked, for programs that read such descriptions (OpenAPI 3.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from swarm.gateway.exchange import Exchange

STREAMED = ("text/event-stream", "application/json")
REFUSALS = {
    "400": "The request is wrong: the message names the field.",
    "401": "A key is needed.",
    "403": "This server has another name.",
    "404": "There is no such thing.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "429": "The swarm is full: retry-after says when to ask again.",
    "500": "A fault in the gateway.",
    "503": "No chain of nodes serves all of the model.",
}


@dataclass(frozen=True, slots=True)
class Described:
    """One route. form: of the body that it takes; kinds: of what it answers with."""

    path: str
    method: str
    form: type[msgspec.Struct] | None = None
    kinds: Sequence[str] = ("application/json",)


class Description:
    """The same for all who ask."""

    def __init__(self, routes: Sequence[Described]) -> None:
        """routes: may grow until the first one asks."""
        self._routes = routes
        self._told: dict[str, Any] | None = None

    async def __call__(self, exchange: Exchange) -> None:
        self._told = self._told or describe(self._routes)
        await exchange.send_json(200, self._told)


def describe(routes: Sequence[Described]) -> dict[str, Any]:
    """All of them, and the forms of what they take."""
    forms = [route.form for route in routes if route.form is not None]
    schemas, named = msgspec.json.schema_components(forms, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(forms, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        told = _describe(route, None if route.form is None else schema_of[route.form])
        paths.setdefault(_without_kinds(route.path), {})[route.method.lower()] = told
    return {
        "openapi": "3.1.0",
        "info": {"title": "swarm-gateway", "version": "1", "description": "Models that a swarm of machines serves."},
        "paths": paths,
        "components": {
            "schemas": named,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _describe(route: Described, schema: dict[str, Any] | None) -> dict[str, Any]:
    fault = {"application/json": {"schema": {"type": "object", "required": ["error"]}}}
    told: dict[str, Any] = {
        "responses": {
            "200": {"description": "As asked.", "content": {kind: {} for kind in route.kinds}},
            **{status: {"description": why, "content": fault} for status, why in REFUSALS.items()},
        }
    }
    names = re.findall(r"\{(\w+)", route.path)
    if names:
        told["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if schema is not None:
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return told


def _without_kinds(path: str) -> str:
    """Routers know parameters of several kinds, descriptions one."""
    return re.sub(r"\{(\w+):\w+\}", r"{\1}", path)
