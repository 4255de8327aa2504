"""Trailing metadata of calls that end with an error: see "How calls end" in common.proto."""

from __future__ import annotations

PUSHBACK = "grpc-retry-pushback-ms"
"""When to try again, as gRPC's own retries understand it, in milliseconds (proposal A6)."""

REASON = "embercache-reason"
"""Why, where the status does not tell it."""

DEADLINE = "deadline"
"""The reason of a refusal: there was no time, while there may have been room."""
