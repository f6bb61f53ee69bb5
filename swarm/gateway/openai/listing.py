"""GET /v1/models and /v1/models/ID, in a form that OpenAI's and Anthropic's libraries both read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from swarm.gateway.exchange import Exchange
from swarm.gateway.models import Models, ServedModel


class Listing:
    """Which models there are."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._created = int(time.time())

    async def __call__(self, exchange: Exchange) -> None:
        name = exchange.scope["path_params"].get("model")
        if name is None:
            await exchange.send_json(200, self._list(await self._models.all_served()))
        else:
            await exchange.send_json(200, self._describe(await self._models.find(name)))

    def _list(self, served: Sequence[ServedModel]) -> dict[str, Any]:
        data = [self._describe(one) for one in served]
        names = [one["id"] for one in data]
        return {
            "object": "list",
            "data": data,
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }

    def _describe(self, served: ServedModel) -> dict[str, Any]:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._created))
        return {
            "id": served.card.name,
            "object": "model",
            "created": self._created,
            "owned_by": "swarm",
            "max_model_len": served.card.context,
            "type": "model",
            "display_name": served.card.name,
            "created_at": at,
        }
