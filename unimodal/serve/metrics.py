"""Metrics for Prometheus: requests by route and status, their time, and the engine's counters."""

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
from .engine.stats import ModalityStats

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

# metric -> field of Stats, help
REQUEST_COUNTERS = {
    "admitted": ("requests", "Requests admitted to the queue."),
    "rejected": ("rejected", "Requests refused because the queue was full."),
    "cancelled": ("cancelled", "Requests whose client disconnected."),
    "refused_items": ("refused", "Items that cannot be embedded."),
    "failed_items": ("failures", "Items that the model failed on."),
    "out_of_memory": (
        "out_of_memory",
        "Forward passes that did not fit into memory.",
    ),
}
# metric and field of ModalityStats -> help
MODALITY_COUNTERS = {
    "items": "Items that the model embedded.",
    "tokens": "Tokens that the model read; an image counts its patches plus 1.",
    "wait_seconds": "Seconds from admission to the forward pass, summed over items.",
    "forward_seconds": "Seconds in forward passes, summed.",
}


class Metrics:
    """The metrics of one server, in their own registry."""

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
            "Seconds from the head of a request to the end of its answer.",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._labelled: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.registry.register(EngineCollector(engine))

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request.

        method, route: each from a short list, because every combination is kept.
        """
        labels = (method, route, status)
        if labels not in self._labelled:  # a lookup by labels is slower than counting
            self._labelled[labels] = (
                self._requests.labels(method, route, str(status)),
                self._seconds.labels(route),
            )
        requests, durations = self._labelled[labels]
        requests.inc()
        durations.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' format."""
        return generate_latest(self.registry)


class EngineCollector(Collector):
    """The engine's counters, read on demand; the engine does not know Prometheus."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every counter at its current value."""
        stats = self.engine.stats
        queue = self.engine.queue
        is_ready, _ = self.engine.ready()
        yield GaugeMetricFamily("unimodal_ready", "1 if it may get traffic.", is_ready)
        yield GaugeMetricFamily(
            "unimodal_queue_items",
            "Items admitted and not yet answered: what to scale on.",
            queue.num_items,
        )
        yield GaugeMetricFamily(
            "unimodal_queue_bytes",
            "Bytes of the items admitted and not yet answered, as received.",
            queue.num_bytes,
        )
        for name, (field, about) in REQUEST_COUNTERS.items():
            yield CounterMetricFamily(f"unimodal_{name}", about, getattr(stats, field))

        modalities = {"text": stats.text, "image": stats.image}
        for name, about in MODALITY_COUNTERS.items():
            family = CounterMetricFamily(
                f"unimodal_{name}", about, labels=("modality",)
            )
            for modality, counters in modalities.items():
                family.add_metric([modality], getattr(counters, name))
            yield family

        sizes = HistogramMetricFamily(
            "unimodal_batch_size", "Items per forward pass.", labels=("modality",)
        )
        for modality, counters in modalities.items():
            sizes.add_metric([modality], *_buckets(counters))
        yield sizes


def _buckets(counters: ModalityStats) -> tuple[list[tuple[str, float]], float]:
    """The number of batches up to each size, and the sum of their sizes."""
    sizes = dict(counters.sizes)  # a copy, because the model's thread counts meanwhile
    buckets: list[tuple[str, float]] = []
    for limit in SIZES:
        up_to_limit = [count for size, count in sizes.items() if size <= limit]
        buckets.append((str(limit), float(sum(up_to_limit))))
    buckets.append(("+Inf", float(sum(sizes.values()))))
    total = sum(size * count for size, count in sizes.items())
    return buckets, float(total)
