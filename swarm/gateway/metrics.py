"""What the gateway counts and times of its answers, for Prometheus: by vLLM's names where they mean the same.

GET /metrics tells it; scraping asks no node anything. What nodes are is what their last beats say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from swarm.client.swarm import missing_of
from swarm.exposition import ENGINE, NodeMetrics
from swarm.gateway.exchange import Exchange
from swarm.messages.members import Beat

FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
GAP_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
ANSWER_SECONDS = (
    *(0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
TOKENS = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Metrics:
    """All of them, in a registry of their own."""

    def __init__(self, beats: Callable[[], Sequence[Beat]]) -> None:
        """beats: of the swarm's nodes, as last heard."""
        disable_created_metrics()
        self.registry = CollectorRegistry()
        self.running = self._gauge("vllm:num_requests_running", "Answers that have a chain.")
        self.waiting = self._gauge("vllm:num_requests_waiting", "Answers that wait for a chain with room for them.")
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = self._counter("vllm:prompt_tokens_cached", "Of these, that sessions had cached.")
        self.answer_tokens = self._counter("vllm:generation_tokens", "Tokens of answers.")
        self.queries = self._counter("vllm:prefix_cache_queries", "Tokens of prompts that were looked for in sessions.")
        self.hits = self._counter("vllm:prefix_cache_hits", "Of these, that were found.")
        self.ended = self._counter("vllm:request_success", "Answers that are over, by why.", "finished_reason")
        self.first_token = self._histogram(
            "vllm:time_to_first_token_seconds", "From the request on.", FIRST_TOKEN_SECONDS
        )
        self.gap = self._histogram("vllm:inter_token_latency_seconds", "Between two tokens.", GAP_SECONDS)
        self.whole = self._histogram("vllm:e2e_request_latency_seconds", "From request to end.", ANSWER_SECONDS)
        self.queued = self._histogram("vllm:request_queue_time_seconds", "Until there was a chain.", ANSWER_SECONDS)
        self.prompt_sizes = self._histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.answer_sizes = self._histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)
        self.reroutes = self._counter("swarm_reroutes", "Chains that answers left for another one.")
        self.refused = self._counter("swarm_refused", "Requests that were not answered, by status.", "status")
        self.registry.register(_Coverage(beats))
        self.registry.register(NodeMetrics(beats))

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(name, told, ["model_name", "engine"], registry=self.registry)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(name, told, ["model_name", "engine", *labels], registry=self.registry)

    def _histogram(self, name: str, told: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, told, ["model_name", "engine"], buckets=buckets, registry=self.registry)

    def begin(self, model: str, prompt_tokens: int, cached_tokens: int) -> AnswerMetrics:
        """An answer has been asked for."""
        return AnswerMetrics(self, model, prompt_tokens, cached_tokens)

    def refuse(self, status: int) -> None:
        """A request was not answered."""
        self.refused.labels("", ENGINE, str(status)).inc()

    async def __call__(self, exchange: Exchange) -> None:
        headers = dict(exchange.scope["headers"])
        encode, kind = choose_encoder(headers.get(b"accept", b"").decode("latin-1"))
        await exchange.send_bytes(200, encode(self.registry), kind)


class AnswerMetrics:
    """What is noted of one answer."""

    def __init__(self, metrics: Metrics, model: str, prompt_tokens: int, cached_tokens: int) -> None:
        self._metrics = metrics
        self._labels = (model, ENGINE)
        self._prompt_tokens = prompt_tokens
        self._cached_tokens = cached_tokens
        self._began = time.monotonic()
        self._placed = self._first = self._last = 0.0  # when there was a chain, when tokens came; 0: not yet
        self._tokens = 0
        metrics.waiting.labels(*self._labels).inc()

    def note_route(self, attempts: int) -> None:
        """There is a chain, or another one."""
        if attempts > 1 and self._placed:
            self._metrics.reroutes.labels(*self._labels).inc()
        if not self._placed:
            self._placed = time.monotonic()
            self._metrics.waiting.labels(*self._labels).dec()
            self._metrics.running.labels(*self._labels).inc()
            self._metrics.queued.labels(*self._labels).observe(self._placed - self._began)

    def note_tokens(self, count: int) -> None:
        """So many have come, together."""
        now = time.monotonic()
        if self._last:
            for _ in range(count):
                self._metrics.gap.labels(*self._labels).observe((now - self._last) / count)
        else:
            self._first = now
            self._metrics.first_token.labels(*self._labels).observe(now - self._began)
        self._last = now
        self._tokens += count

    def timings(self) -> dict[str, float]:
        """As llama.cpp's server tells them: tokens of the prompt and of the answer, and how fast they went."""
        prompt, seconds = self._prompt_tokens - self._cached_tokens, max(self._first - self._placed, 1e-9)
        answering = max(self._last - self._first, 1e-9)
        return {
            "cache_n": self._cached_tokens,
            "prompt_n": prompt,
            "prompt_ms": round(1000 * seconds, 3),
            "prompt_per_second": round(prompt / seconds, 3),
            "predicted_n": self._tokens,
            "predicted_ms": round(1000 * answering, 3),
            "predicted_per_second": round(max(0, self._tokens - 1) / answering, 3),
        }

    def end(self, reason: str) -> None:
        """reason: stop, length, abort or error."""
        metrics, labels = self._metrics, self._labels
        (metrics.running if self._placed else metrics.waiting).labels(*labels).dec()
        metrics.ended.labels(*labels, reason).inc()
        metrics.whole.labels(*labels).observe(time.monotonic() - self._began)
        metrics.prompt_sizes.labels(*labels).observe(self._prompt_tokens)
        metrics.answer_sizes.labels(*labels).observe(self._tokens)
        metrics.answer_tokens.labels(*labels).inc(self._tokens)
        for counter in (metrics.prompt_tokens, metrics.queries):
            counter.labels(*labels).inc(self._prompt_tokens)
        for counter in (metrics.cached_tokens, metrics.hits):
            counter.labels(*labels).inc(self._cached_tokens)


class _Coverage(Collector):
    """What the nodes serve together."""

    def __init__(self, beats: Callable[[], Sequence[Beat]]) -> None:
        self._beats = beats

    def collect(self) -> Iterator[Metric]:
        beats = self._beats()
        nodes = GaugeMetricFamily("swarm_nodes", "Nodes that are there.")
        nodes.add_metric([], len(beats))
        yield nodes
        names = {claim.model: claim.name for beat in beats for claim in beat.claims}
        missing = GaugeMetricFamily("swarm_missing_cells", "Layers and ends that nobody serves.", labels=["model_name"])
        for model, part in missing_of(beats, None).items():
            missing.add_metric([names[model]], len(part.cells))
        yield missing
