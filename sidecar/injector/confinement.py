"""Keeps the sidecar as confined as the injector made it, whatever a pod's annotations say.

The API server holds an injected pod to its policies like any other. But some policies let a
container pass by its name, or look at Deployments and not at the pods that come of them.
"""

from __future__ import annotations

from typing import Any

_FREE = {"runAsUser", "runAsGroup"}
_CALLED = ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle")


def breach(made: dict[str, Any], patched: dict[str, Any]) -> str:
    """What of a patched container is outside the Pod Security Standard ``restricted``.

    ``made`` is the container as it was before, which is within. Empty for nothing.
    """
    context = patched.get("securityContext")
    if not isinstance(context, dict) or _fixed(context) != _fixed(made["securityContext"]):
        return "of securityContext, only runAsUser and runAsGroup can be changed"
    if context.get("runAsUser") == 0:
        return "runAsUser cannot be 0, which is root"
    if _holds(patched.get("ports"), "hostPort"):
        return "hostPort cannot be set"
    if any(_holds(patched.get(key), "host") for key in _CALLED):
        return "probes and hooks cannot go to another host"
    return ""


def _fixed(context: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in context.items() if key not in _FREE}


def _holds(value: Any, key: str) -> bool:
    """Whether a key is set, at any depth, to something else than nothing."""
    if isinstance(value, dict):
        return bool(value.get(key)) or any(_holds(each, key) for each in value.values())
    return isinstance(value, list) and any(_holds(each, key) for each in value)
