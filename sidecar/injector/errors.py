"""Why a pod cannot be given a sidecar."""

from __future__ import annotations


class InjectionError(Exception):
    """A pod cannot be given a sidecar as it is. The message says what to change in the pod."""


class AnnotationError(InjectionError):
    """A label or annotation of ours is unknown, or its value is wrong."""
