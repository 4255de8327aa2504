"""Python client of Embercache: vectors, search results and texts from the sidecar next door.

::

    from embercache import Client

    client = Client()
    vectors = client.embed(["a text", "another"]).vectors
"""

from embercache._generate_requests import Generation
from embercache._search_requests import Search
from embercache.aio import AsyncClient
from embercache.client import Client
from embercache.errors import (
    ClientClosedError,
    DeadlineExceededError,
    EmbercacheError,
    FailedPreconditionError,
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
from embercache.filters import Field, Filter, field
from embercache.generate import (
    AsyncGenerateStream,
    ChatMessage,
    Generated,
    GenerateOptions,
    GenerateStream,
    GenerateTimings,
    GeneratorModel,
)
from embercache.results import EmbedResult
from embercache.search import (
    Chunk,
    Document,
    Rerank,
    RerankOptions,
    RerankResult,
    SearchHit,
    SearchOptions,
    SearchResult,
    SemanticMatch,
    Upserted,
    UpsertResult,
)
from embercache.stats import (
    DiskState,
    ForgedStats,
    GeneratorStats,
    ModelStats,
    PrefixStats,
    QuotaStats,
    SemanticBand,
    SemanticStats,
    Stats,
    TierStats,
    UsageStats,
    WarmState,
)
from embercache.types import (
    CredentialFiles,
    EmbedInput,
    EmbedOptions,
    Entity,
    Event,
    InvalidateTarget,
    MigrateModelProgress,
    Model,
    Tier,
    WarmProgress,
)

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "AsyncGenerateStream",
    "ChatMessage",
    "Chunk",
    "Client",
    "ClientClosedError",
    "CredentialFiles",
    "DeadlineExceededError",
    "DiskState",
    "Document",
    "EmbedInput",
    "EmbedOptions",
    "EmbedResult",
    "EmbercacheError",
    "Entity",
    "Event",
    "FailedPreconditionError",
    "Field",
    "Filter",
    "ForgedStats",
    "GenerateOptions",
    "GenerateStream",
    "GenerateTimings",
    "Generated",
    "Generation",
    "GeneratorModel",
    "GeneratorStats",
    "InternalError",
    "InvalidArgumentError",
    "InvalidateTarget",
    "MigrateModelProgress",
    "Model",
    "ModelNotFoundError",
    "ModelStats",
    "NotCachedError",
    "OverloadedError",
    "PartialFailureError",
    "PermissionDeniedError",
    "PrefixStats",
    "QuotaStats",
    "Rerank",
    "RerankOptions",
    "RerankResult",
    "Search",
    "SearchHit",
    "SearchOptions",
    "SearchResult",
    "SemanticBand",
    "SemanticMatch",
    "SemanticStats",
    "Stats",
    "Tier",
    "TierStats",
    "UnauthenticatedError",
    "UnavailableError",
    "UpsertResult",
    "Upserted",
    "UsageStats",
    "VersionMismatchError",
    "WarmProgress",
    "WarmState",
    "field",
]
