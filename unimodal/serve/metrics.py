"""What Prometheus is told: requests by route and status, their time, and the engine's counters."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .engine.engine import Engine
from .engine.stats import LaneStats

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "unimodal_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "unimodal_request_seconds",
            "From the head of a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._kept: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.registry.register(EngineCollector(engine))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is done. method, route: from a short list each, since every pair of them is
        kept for ever.
        """
        found = self._kept.get((method, route, status))
        if found is None:  # to look one up by its labels takes longer than to count
            found = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(route),
            )
            self._kept[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """The engine's counters, read when they are asked for: the engine knows
    nothing of Prometheus.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every counter as it stands."""
        stats = self.engine.stats
        yield GaugeMetricFamily(
            "unimodal_ready", "1 if it may get traffic.", self.engine.ready()[0]
        )
        yield GaugeMetricFamily(
            "unimodal_queue_items",
            "Items admitted and not yet answered: what to scale on.",
            self.engine.queued_items,
        )
        yield GaugeMetricFamily(
            "unimodal_queue_bytes",
            "The same in bytes as they came.",
            self.engine.queued_bytes,
        )
        for name, about, value in (
            ("admitted", "Requests admitted to the queue.", stats.requests),
            (
                "rejected",
                "Requests refused because the queue was full.",
                stats.rejected,
            ),
            ("cancelled", "Requests whose client went away.", stats.cancelled),
            ("refused_items", "Items that cannot be embedded.", stats.refused),
            ("failed_items", "Items that the model failed on, alone.", stats.failures),
            (
                "out_of_memory",
                "Forward passes that did not fit into memory.",
                stats.out_of_memory,
            ),
        ):
            yield CounterMetricFamily(f"unimodal_{name}", about, value)
        lanes = {"text": stats.text, "image": stats.image}
        for name, about in (
            ("items", "Items that the model embedded."),
            ("tokens", "Tokens that it read; an image counts its patches and one."),
            ("wait_seconds", "From admission to the forward pass, summed over items."),
            ("forward_seconds", "In forward passes, summed."),
        ):
            family = CounterMetricFamily(
                f"unimodal_{name}", about, labels=("modality",)
            )
            for modality, lane in lanes.items():
                family.add_metric([modality], getattr(lane, name))
            yield family
        sizes = HistogramMetricFamily(
            "unimodal_batch_size", "Items of a forward pass.", labels=("modality",)
        )
        for modality, lane in lanes.items():
            sizes.add_metric([modality], *_buckets(lane))
        yield sizes


def _buckets(lane: LaneStats) -> tuple[list[tuple[str, float]], float]:
    """How many batches were at most so large, and the sum of their sizes."""
    sizes = dict(lane.sizes)  # a copy: the model's thread goes on counting
    below = [
        (str(limit), float(sum(n for size, n in sizes.items() if size <= limit)))
        for limit in SIZES
    ]
    return [*below, ("+Inf", float(sum(sizes.values())))], float(
        sum(size * n for size, n in sizes.items())
    )
