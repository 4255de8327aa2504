"""Python client of Embercache: vectors from the sidecar next door, as numpy arrays.

::

    from embercache import Client

    client = Client()
    vectors = client.embed(["a text", "another"]).vectors
"""

from embercache.aio import AsyncClient
from embercache.client import Client
from embercache.errors import (
    ClientClosedError,
    DeadlineExceededError,
    EmbercacheError,
    InternalError,
    InvalidArgumentError,
    ModelNotFoundError,
    NotCachedError,
    OverloadedError,
    PartialFailureError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    VersionMismatchError,
)
from embercache.results import EmbedResult
from embercache.types import (
    DiskState,
    EmbedInput,
    EmbedOptions,
    Entity,
    Model,
    ModelStats,
    Stats,
    Tier,
    TierStats,
    WarmState,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClientClosedError",
    "DeadlineExceededError",
    "DiskState",
    "EmbedInput",
    "EmbedOptions",
    "EmbedResult",
    "EmbercacheError",
    "Entity",
    "InternalError",
    "InvalidArgumentError",
    "Model",
    "ModelNotFoundError",
    "ModelStats",
    "NotCachedError",
    "OverloadedError",
    "PartialFailureError",
    "PermissionDeniedError",
    "Stats",
    "Tier",
    "TierStats",
    "UnauthenticatedError",
    "UnavailableError",
    "VersionMismatchError",
    "WarmState",
]
