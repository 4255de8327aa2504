"""What calls take and return, apart from vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

InputType: TypeAlias = Literal["query", "document"]
Encoding: TypeAlias = Literal["float32", "float16", "int8"]
Truncation: TypeAlias = Literal["end", "error"]
CacheMode: TypeAlias = Literal["default", "refresh", "bypass", "no_store", "only_if_cached"]
OnError: TypeAlias = Literal["raise", "return"]
Tier: TypeAlias = Literal["unspecified", "hot", "disk", "warm", "computed", "coalesced"]
FlushableTier: TypeAlias = Literal["hot", "disk"]
WarmTierState: TypeAlias = Literal["unspecified", "off", "up", "down"]


@dataclass(frozen=True, slots=True)
class Entity:
    """A text that has a name.

    It is cached under its name, and embedded again only when its text differs from the one
    that was embedded last. ``id`` has 1 to 1024 bytes; ``chunk_id`` names a part of the entity,
    empty for the whole. The text plays no part in `Client.invalidate`.
    """

    id: str
    text: str = ""
    chunk_id: str = ""


EmbedInput: TypeAlias = str | Entity | NDArray[np.generic]
"""A text, a named text, or one tensor without batch dimension."""


class EmbedOptions(TypedDict, total=False):
    """The options of ``embed`` and ``embed_stream``. All may be left out.

    - ``model``: a name from ``models()``; without it the sidecar's first model.
    - ``model_version``: refuse to answer (`VersionMismatchError`) with any other version.
    - ``namespace``: letters, digits, ``.``, ``_`` and ``-``, at most 64.
    - ``input_type``: chooses the model's prompt prefix, where it has one, and the default
      lifetime of what is stored.
    - ``encoding``: how vectors travel. ``vectors`` are float32 whichever is chosen; ``float16``
      and ``int8`` are smaller on the wire and less exact.
    - ``truncation``: what to do with a text longer than the model takes: embed its beginning
      (``"end"``, the default) or fail it (``"error"``).
    - ``mode``: ``"refresh"`` computes anew and replaces what is stored, ``"bypass"`` neither
      reads nor stores, ``"no_store"`` reads only, ``"only_if_cached"`` fails an input that is
      missing (`NotCachedError`).
    - ``ttl``: lifetime of what this call stores, in seconds or as a `timedelta`.
    - ``tags``: invalidating one of them later removes all that this call read or stored.
    """

    model: str
    model_version: str
    namespace: str
    input_type: InputType | None
    encoding: Encoding
    truncation: Truncation
    mode: CacheMode
    ttl: float | timedelta | None
    tags: Sequence[str]


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the sidecar answers for.

    ``max_tokens`` is the longest text in tokens, 0 for models of tensors. ``runs_on`` is
    ``"cpu"``, ``"cuda"`` or the address of an encoder. ``prompts`` maps ``"query"`` and
    ``"document"`` to what is put in front of a text of that input type.
    """

    name: str
    version: str
    dimensions: int
    max_tokens: int
    accepts_text: bool
    accepts_tensor: bool
    runs_on: str
    prompts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TierStats:
    """One tier since the sidecar started; sizes are 0 where a tier stores nothing."""

    answered: int
    entries: int
    bytes: int
    capacity_bytes: int
    evictions: int
    corrupt: int
    expirations: int


@dataclass(frozen=True, slots=True)
class DiskState:
    """Failures of the disk tier since the sidecar started."""

    errors: int
    skipped: int
    writes_dropped: int
    corrupt_files: int


@dataclass(frozen=True, slots=True)
class WarmState:
    """Redis, as this sidecar sees it."""

    state: WarmTierState
    errors: int
    skipped: int
    writes_dropped: int


@dataclass(frozen=True, slots=True)
class ModelStats:
    """One model since the sidecar started; ``queued`` is as of now."""

    name: str
    version: str
    computed: int
    batches: int
    tokens: int
    padding_tokens: int
    queued: int
    shed: int
    abandoned: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one sidecar since it started.

    ``response_hits`` counts calls answered whole, without looking at their inputs; ``tiers``
    counts inputs by what answered them. ``disk`` is ``None`` without a disk tier.
    """

    version: str
    uptime_seconds: float
    response_hits: int
    items_failed: int
    tiers: Mapping[Tier, TierStats]
    disk: DiskState | None
    warm: WarmState
    models: Sequence[ModelStats]
