"""Metrics of the admission webhook."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sidecar.transport.certificate import CertificateMetrics

Outcome = Literal["injected", "skipped", "denied", "failed", "bad_request"]

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class InjectorMetrics:
    """Metrics of one webhook, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "embercache_injector_requests",
            "Requests of the API server by what came of them; a pod that failed asked for a"
            " sidecar and came up without one.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in get_args(Outcome):
            self._requests.labels(outcome)
        self._seconds = Histogram(
            "embercache_injector_request_seconds",
            "Time from the head of a request to its answer.",
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.certificate = CertificateMetrics(self.registry, "embercache_injector")
        self.native_sidecars = Gauge(
            "embercache_injector_native_sidecars",
            "Whether pods get a native sidecar unless they say otherwise: 1 or 0.",
            registry=self.registry,
        )
        self.node_failures = Counter(
            "embercache_injector_node_failures",
            "Times that the API server could not be asked for the kubelets' versions.",
            registry=self.registry,
        )

    def answered(self, outcome: Outcome, seconds: float) -> None:
        """Counts a request and how long it took."""
        self._requests.labels(outcome).inc()
        self._seconds.observe(seconds)
