"""What Prometheus reads at `/metrics`. Gauges ask the live parts when read, so nothing is counted twice."""

from collections.abc import Callable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """The coordinator's numbers; one registry per process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tallystick_requests",
            "Requests by route and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "tallystick_request_seconds",
            "Time to the end of the answer.",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is its pattern, so that ids make no new series."""
        series = self._series.get((method, route, status))
        if series is None:
            series = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
            self._series[method, route, status] = series
        series[0].inc()
        series[1].observe(seconds)

    def watch(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Show the number that `read` returns at the time of asking."""
        Gauge(f"tallystick_{name}", what, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return everything in Prometheus's text format, with the process's own numbers and the alarms."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)
