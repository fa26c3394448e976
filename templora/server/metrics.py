"""What is counted for Prometheus. No label names a session."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_FAST = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.6, 1, 2, 5)
_SLOW = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Of one server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"templora_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"templora_{name}_seconds", help, labels, buckets=buckets, registry=registry)

        self.requests = counter("requests", "Answers begun", "route")
        self.refused = counter("refused", "Requests refused", "status", "reason")
        self.tokens = counter("tokens", "Tokens", "kind")
        self.updates = counter("updates", "Chunks learnt or not", "result")
        self.queue_seconds = histogram("queue", "Waiting for a place", _SLOW)
        self.first_token_seconds = histogram("ttft", "From the request to its first token", _SLOW)
        self.token_seconds = histogram("inter_token", "From one token to the next", _FAST, "neighbour_learning")

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A figure that is read when it is asked for."""
        Gauge(f"templora_{name}", help, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        found: bytes = generate_latest(self._registry)
        return found
