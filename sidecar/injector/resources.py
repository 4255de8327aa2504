"""What the sidecar's container asks for and may use at most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.injector.errors import AnnotationError
from sidecar.injector.settings import DEFAULT_REQUESTS
from sidecar.injector.values import parse_quantity

if TYPE_CHECKING:
    from sidecar.injector.annotations import Overrides
    from sidecar.injector.settings import Resources


def container_resources(
    spec: dict[str, Any], overrides: Overrides, defaults: Resources
) -> dict[str, Any]:
    """Requests and limits of the sidecar. Raises `AnnotationError` if a request exceeds its limit.

    A pod that has resources as a whole (``spec.resources``) shares them with its sidecar, which
    then has none of its own unless annotated: Kubernetes refuses containers that ask for more than
    their pod.
    """
    annotated_requests = _given(overrides.sidecar_cpu_request, overrides.sidecar_memory_request)
    annotated_limits = _given(overrides.sidecar_cpu_limit, overrides.sidecar_memory_limit)
    if spec.get("resources"):
        requests, limits = annotated_requests, annotated_limits
    else:
        limits = defaults.limits | annotated_limits
        requests = {
            name: _at_most(request, limits.get(name))
            for name, request in (DEFAULT_REQUESTS | defaults.requests).items()
        } | annotated_requests
    for name, request in requests.items():
        _check(name, request, limits.get(name))
    return {
        kind: quantities
        for kind, quantities in (("requests", requests), ("limits", limits))
        if quantities
    }


def _given(cpu: str | None, memory: str | None) -> dict[str, str]:
    return {name: text for name, text in (("cpu", cpu), ("memory", memory)) if text is not None}


def _at_most(request: str, limit: str | None) -> str:
    """A default gives way to a limit that is lower."""
    if limit is not None and parse_quantity(request) > parse_quantity(limit):
        return limit
    return request


def _check(name: str, request: str, limit: str | None) -> None:
    if limit is not None and parse_quantity(request) > parse_quantity(limit):
        raise AnnotationError(
            f"embercache.io/sidecar-{name}-request: {request} is more than the limit, {limit}: set"
            f" embercache.io/sidecar-{name}-limit too"
        )
