"""GET /health: whether there is a model to ask."""

from __future__ import annotations

from swarm.client.swarm import SwarmClient, missing_of
from swarm.gateway.exchange import Exchange


class Health:
    """Answers 200 while a chain serves some model, 503 with what is missing otherwise."""

    def __init__(self, client: SwarmClient) -> None:
        self._client = client

    async def __call__(self, exchange: Exchange) -> None:
        beats = self._client.beats
        missing = missing_of(beats, None)
        names = {claim.model: claim.name for beat in beats for claim in beat.claims}
        lacking = {names[model]: part.describe() for model, part in missing.items() if not part.is_empty()}
        is_well = len(lacking) < len(missing)
        told = {"status": "ok" if is_well else "no chain", "nodes": len(beats), "missing": lacking}
        await exchange.send_json(200 if is_well else 503, told)
