"""How often and after how long a failed call is repeated."""

from __future__ import annotations

import random

import grpc

from embercache.errors import OverloadedError, UnavailableError

TRANSIENT = (OverloadedError, UnavailableError)
"""Errors after which the same request may succeed a little later."""

TRANSIENT_CODES: dict[int, str] = {
    code.value[0]: code.name
    for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
}
"""Their numbers and names."""

ATTEMPTS = 5  # the most that gRPC itself allows
INITIAL_SECONDS = 0.1  # with about 0.001, gRPC can hang until the deadline (grpc/grpc#41036)
MAX_SECONDS = 2.0
MULTIPLIER = 3.0  # about 3.3 seconds in all: a sidecar that restarts is away for less
JITTER = 0.2


def delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: exponential, with jitter, as gRPC does."""
    exponent = min(failures - 1, 30)  # the power of a larger one may not fit a float
    base = min(INITIAL_SECONDS * MULTIPLIER**exponent, MAX_SECONDS)
    return base * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - no secret
