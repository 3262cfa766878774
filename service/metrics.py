"""What the service counts and times, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """One registry for one application, so that two in a process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "kindred_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.request_seconds = Histogram(
            "kindred_request_seconds",
            "Time from a request's first byte to its answer's last, in seconds.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.encode_seconds = Histogram(
            "kindred_encode_seconds",
            "Time of one run of the encoder, in seconds.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.encode_images = Histogram(
            "kindred_encode_images",
            "Images that one run of the encoder took together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=self._registry,
        )
        self._queue_depth = Gauge(
            "kindred_queue_depth",
            "Images taken in and not yet encoded.",
            registry=self._registry,
        )

    def observe_queue(self, depth: Callable[[], float]) -> None:
        """Ask ``depth`` for the queue's depth whenever metrics are read."""
        self._queue_depth.set_function(depth)

    def observe_images(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Ask ``counts`` for the images of each collection whenever metrics are read."""
        self._registry.register(_ImagesPerCollection(counts))

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self._registry)


class _ImagesPerCollection(Collector):
    """Read at the time of asking: other processes add images too."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "kindred_images", "Images that a search can find.", labels=("collection",)
        )
        for name, count in self._counts().items():
            family.add_metric((name,), count)
        yield family
