"""GET /swarm: the swarm as its nodes tell it, for the page: who holds what, who answers now, what is about to change."""

from __future__ import annotations

import time
from typing import Any

from swarm.client.table import describe, describe_plans
from swarm.gateway.answers import Swarm
from swarm.gateway.exchange import Exchange
from swarm.gateway.models import Models

PLAN_SECONDS = 2.0  # a plan for 200 nodes takes a tenth of one


class Picture:
    """What there is to see."""

    def __init__(self, swarm: Swarm, models: Models) -> None:
        self._swarm = swarm
        self._models = models
        self._plans: list[dict[str, object]] = []
        self._planned_at = float("-inf")

    async def __call__(self, exchange: Exchange) -> None:
        beats = self._swarm.client.beats
        now = time.monotonic()
        if now - self._planned_at > PLAN_SECONDS:
            self._planned_at = now
            self._plans = await self._models.in_thread(lambda: describe_plans(beats))
        told: dict[str, Any] = describe(beats)
        told["plans"] = self._plans
        told["answers"] = [answer.describe(has_route=True, has_timings=False) for answer in self._swarm.running]
        await exchange.send_json(200, told)
