"""What nodes say of themselves, as metrics for Prometheus: by vLLM's names where they mean the same.

Read from beats that have come anyway: who scrapes wakes nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from swarm.messages.members import Beat

ENGINE = "0"  # there is one, as far as vLLM's dashboards care

_Read = Callable[[Beat], float]
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("swarm_node_sessions", "Sessions that a node has.", lambda beat: beat.sessions),
    ("swarm_node_queue", "Steps that wait for their turn.", lambda beat: beat.queue),
    ("swarm_node_caches", "Caches that its engines hold, one a session and part.", lambda beat: beat.caches),
    ("swarm_node_memory_free_bytes", "Memory that a node may still use.", lambda beat: beat.memory_free),
    (
        "swarm_node_memory_budget_bytes",
        "Memory that a node may use in all.",
        lambda beat: beat.memory_budget or beat.memory_total,
    ),
    ("swarm_node_layer_seconds", "What a token takes in one of its layers.", lambda beat: beat.layer_seconds),
)
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("swarm_node_refused", "Steps and sessions refused since it began.", lambda beat: beat.refused + beat.dropped),
    ("swarm_node_resent", "Steps sent again since it began.", lambda beat: beat.resent),
    ("swarm_node_moves", "Parts that it has changed to since it began.", lambda beat: beat.moves),
    (
        "swarm_node_turns_waited",
        "Batches before which it waited for its machine's cores.",
        lambda beat: beat.turns_waited,
    ),
    (
        "swarm_node_passed_over",
        "Batches computed although another node had the cores, and did not go on.",
        lambda beat: beat.passed_over,
    ),
)


class NodeMetrics(Collector):
    """Those of some nodes."""

    def __init__(self, beats: Callable[[], Sequence[Beat]]) -> None:
        """beats: the last ones, asked for with each scrape."""
        self._beats = beats

    def collect(self) -> Iterator[Metric]:
        beats = self._beats()
        yield _count_claims(beats)
        yield _tell_kv(beats)
        for name, told, read in _GAUGES:
            yield _fill(GaugeMetricFamily(name, told, labels=["node"]), beats, read)
        for name, told, read in _COUNTERS:
            yield _fill(CounterMetricFamily(name, told, labels=["node"]), beats, read)


def registry_of(beats: Callable[[], Sequence[Beat]]) -> CollectorRegistry:
    """A registry of some nodes' metrics alone."""
    registry = CollectorRegistry()
    registry.register(NodeMetrics(beats))
    return registry


def _count_claims(beats: Sequence[Beat]) -> Metric:
    counted: dict[tuple[str, str], int] = {}
    for claim in (claim for beat in beats for claim in beat.claims):
        counted[claim.name, claim.state] = counted.get((claim.name, claim.state), 0) + 1
    claims = GaugeMetricFamily(
        "swarm_claims", "Parts of models, by what becomes of them.", labels=["model_name", "state"]
    )
    for labels, count in sorted(counted.items()):
        claims.add_metric(list(labels), count)
    return claims


def _tell_kv(beats: Sequence[Beat]) -> Metric:
    """The fullest node counts: an answer needs room on all of a chain."""
    used: dict[str, float] = {}
    for claim in (claim for beat in beats for claim in beat.claims):
        if claim.kv_positions:
            share = 1.0 - min(claim.kv_free_positions, claim.kv_positions) / claim.kv_positions
            used[claim.name] = max(share, used.get(claim.name, 0.0))
    told = GaugeMetricFamily(
        "vllm:kv_cache_usage_perc",
        "Share of the KV memory that sessions have reserved, where that is most.",
        labels=["model_name", "engine"],
    )
    for name, share in sorted(used.items()):
        told.add_metric([name, ENGINE], share)
    return told


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily, beats: Sequence[Beat], read: _Read
) -> GaugeMetricFamily | CounterMetricFamily:
    for beat in beats:
        family.add_metric([beat.name], read(beat))
    return family
