"""What the rest of the sidecar knows of a model: one protocol, its inputs, outputs and errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence

Vector: TypeAlias = NDArray[np.float32]
ModelInput: TypeAlias = str | NDArray[Any]
"""A text, its prompt prefix already in front; or a tensor without batch dimension."""


class ModelError(Exception):
    """A model gave no usable answer for an input. The message is fit for the caller."""


class InputRejectedError(ModelError):
    """The input is not one that this model takes; trying again is of no use."""


LEAST_RETRY_SECONDS = 0.1
"""Sooner, a caller who was refused is not told to come again."""


class QueueFullError(ModelError):
    """There is no room for the input, or no time: try again in ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class TooLateError(QueueFullError):
    """There is no time: its deadline comes before its turn, or passed while it waited."""


class ModelUnavailableError(ModelError):
    """The model cannot be reached; try again later."""


class VersionChangedError(ModelError):
    """The model behind this name is no longer the version that the caller asked for."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model is.

    ``version`` changes whenever anything changes that a vector depends on. ``prompts`` maps
    ``"query"`` and ``"document"`` to the prefix that the model wants in front of such a text.
    """

    name: str
    version: str
    dimensions: int
    max_tokens: int
    accepts_text: bool
    accepts_tensor: bool
    runs_on: str
    prompts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Embedded:
    """What a model made of one input.

    ``vector`` is finite and has shape ``[dimensions]``; ``tokens`` counts what the model read,
    special tokens included (0 for tensors).
    """

    vector: Vector
    tokens: int
    truncated: bool


@dataclass(slots=True)
class ModelCounters:
    """Counters since start-up. One run of a model computes one batch.

    ``shed`` inputs were refused; of them ``refused_late`` would have been done after their
    deadlines. The deadlines of ``dropped_late`` passed while they waited.
    """

    computed: int = 0
    batches: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    shed: int = 0
    refused_late: int = 0
    dropped_late: int = 0
    abandoned: int = 0


class Embedder(Protocol):
    """A model that embeds, wherever it runs. Used from one event loop only."""

    counters: ModelCounters

    @property
    def info(self) -> ModelInfo:
        """The model as it is now. Raises `ModelUnavailableError` if that is not known yet."""
        ...

    @property
    def queued(self) -> int:
        """Inputs accepted and not yet handed to a run."""
        ...

    @property
    def queue_seconds(self) -> float:
        """How long the model will take for them; 0 if that is not known."""
        ...

    def submit(self, inputs: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        """Queues inputs and returns at once; all of them are accepted, or none.

        Each future ends on its own, with a `ModelError` where there is no vector. Cancelling
        one tells that nobody wants it: an input not yet handed to a run is then not computed.

        Raises `QueueFullError` if there is no room for all of the inputs, `TooLateError` if they
        would be done after the deadline of this context's `sidecar.demand.demand`.
        """
        ...

    async def close(self) -> None:
        """Ends the work in progress; what is still queued fails with `ModelUnavailableError`."""
        ...


TokenVectors: TypeAlias = NDArray[np.float32]
"""One vector of unit length for each token of a text, ``[tokens, dimensions]``."""

Pair: TypeAlias = tuple[str, str]
"""A query and a passage; prompt prefixes are not included."""


@dataclass(frozen=True, slots=True)
class RerankerInfo:
    """What a reranker is. ``version`` changes whenever anything changes that a score depends on."""

    name: str
    version: str
    runs_on: str


class Reranker(Protocol):
    """A model that scores passages against queries. Used from one event loop only."""

    @property
    def info(self) -> RerankerInfo:
        """The model as it is now. Raises `ModelUnavailableError` if that is not known yet."""
        ...

    def submit(self, pairs: Sequence[Pair]) -> list[asyncio.Future[float]]:
        """Queues pairs and returns at once; all of them are accepted, or none.

        Each future ends on its own: with a finite score, the higher the more relevant, or with a
        `ModelError`. Cancelling one tells that nobody wants it.

        Raises `QueueFullError` if there is no room for all of the pairs.
        """
        ...

    async def close(self) -> None:
        """Ends the work in progress; what is still queued fails with `ModelUnavailableError`."""
        ...
