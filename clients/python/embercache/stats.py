"""What a sidecar tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embercache.types import Tier

WarmTierState: TypeAlias = Literal["unspecified", "off", "up", "down"]


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
    """Redis, as this sidecar sees it.

    The memory is what Redis says of itself, 0 if not known; a limit of 0 is no limit.
    ``invalidations_heard_seconds`` is how long ago invalidations were last heard of.
    """

    state: WarmTierState
    errors: int
    skipped: int
    writes_dropped: int
    memory_bytes: int
    memory_limit_bytes: int
    invalidations_heard_seconds: float


@dataclass(frozen=True, slots=True)
class ModelStats:
    """One model since the sidecar started; ``queued`` and ``queue_seconds`` are as of now.

    - ``shed``: inputs refused; of them ``refused_late`` would have been done after their deadlines;
    - ``dropped_late``: inputs whose deadlines passed while they waited;
    - ``abandoned``: inputs whose callers had all gone;
    - ``queue_seconds``: how long the model will take for what is queued, 0 if that is not known.
    """

    name: str
    version: str
    computed: int
    batches: int
    tokens: int
    padding_tokens: int
    queued: int
    shed: int
    abandoned: int
    refused_late: int = 0
    dropped_late: int = 0
    queue_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PrefixStats:
    """What a generator keeps of prompts, in blocks.

    - ``reused_tokens``: tokens of prompts that did not have to be read again, by the tier that had
      kept them;
    - ``blocks``, ``pinned_blocks``: those in memory, and of them those in use;
    - ``bytes``: of the blocks and of the generations at work together; at most ``capacity_bytes``;
    - ``bandwidths``: bytes a second at which blocks came from each lower tier of late, as far as
      known;
    - ``not_worth_loading``: prompts whose blocks would have taken longer to load than to compute.
    """

    reused_tokens: Mapping[Tier, int]
    blocks: int
    pinned_blocks: int
    bytes: int
    capacity_bytes: int
    evictions: int
    bandwidths: Mapping[Tier, float]
    not_worth_loading: int


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """One generator since the sidecar started; ``queued`` and ``active`` are as of now.

    ``prefill_tokens`` of prompts were read in ``prefill_seconds``, ``decode_tokens`` of answers
    generated in ``decode_seconds``. ``prefix`` is ``None`` for one that runs elsewhere.

    - ``shed``: generations refused; of them ``refused_late`` would have begun after deadlines;
    - ``dropped_late``: generations whose deadlines passed while they waited;
    - ``abandoned``: generations that nobody waited for any more.
    """

    name: str
    version: str
    generated: int
    shed: int
    abandoned: int
    queued: int
    active: int
    prefill_tokens: int
    prefill_seconds: float
    decode_tokens: int
    decode_seconds: float
    prefix: PrefixStats | None
    refused_late: int = 0
    dropped_late: int = 0


@dataclass(frozen=True, slots=True)
class UsageStats:
    """What the cache was worth to one kind of entries, in one namespace, of one model.

    - ``kind``: ``"embed"``, ``"search"``, ``"rerank"`` or ``"generate"``; ``model`` is the reranker
      or generator where there is one;
    - ``answered``: items by what answered them; ``"computed"`` counts the misses;
    - ``hot_entries``, ``hot_bytes``, ``hot_age_seconds``: what memory holds, and its mean age;
    - ``compute_ms``, ``hit_ms``: mean milliseconds of a computation, and of an answer of the hot,
      disk or warm tier;
    - ``seconds_saved``, ``money_saved``: the latter at the prices that the sidecar is set to;
    - ``break_even_hit_rate``: above it the cache saves more time than its lookups cost; 0 if not
      known yet.
    """

    kind: str
    namespace: str
    model: str
    answered: Mapping[Tier, int]
    failed: int
    hot_entries: int
    hot_bytes: int
    hot_age_seconds: float
    evictions: int
    tokens_saved: int
    compute_ms: float
    seconds_saved: float
    money_saved: float
    hit_ms: float
    break_even_hit_rate: float


@dataclass(frozen=True, slots=True)
class SemanticBand:
    """Queries whose nearest query was at a similarity of at least ``start`` and below ``end``.

    Those ``looked_up`` were ``answered``, or refused: by the guard (numbers, names or negations
    differed), by the verifier, or for a similarity below the threshold.
    """

    start: float
    end: float
    looked_up: int
    answered: int
    refused_by_guard: int
    refused_by_verifier: int
    below_threshold: int


@dataclass(frozen=True, slots=True)
class SemanticStats:
    """Queries of one namespace for which a semantic answer was looked for, by similarity."""

    namespace: str
    bands: Sequence[SemanticBand]


@dataclass(frozen=True, slots=True)
class QuotaStats:
    """How often one quota of a namespace, as the policy names it, has refused calls."""

    namespace: str
    quota: str
    refusals: int


@dataclass(frozen=True, slots=True)
class ForgedStats:
    """How many values on disk or in Redis were not taken, because no sidecar had sealed them so.

    ``what`` they were: entries, prompts, semantic, popular, changes or moves. ``reason`` is
    unsealed, unknown_key or, if they were changed, cut short or put elsewhere, forged.
    """

    tier: Tier
    what: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one sidecar since it started.

    ``response_hits`` counts calls answered whole, without looking at their inputs; ``tiers``
    counts inputs by what answered them. ``disk`` is ``None`` without a disk tier. ``usage`` has
    one entry for each kind of entries, namespace and model; ``semantic`` one for each namespace
    in which semantic answers were looked for; ``quotas`` one for each quota that refused calls.
    ``forged`` is empty without encryption.
    """

    version: str
    uptime_seconds: float
    response_hits: int
    items_failed: int
    tiers: Mapping[Tier, TierStats]
    disk: DiskState | None
    warm: WarmState
    models: Sequence[ModelStats]
    usage: Sequence[UsageStats]
    semantic: Sequence[SemanticStats]
    generators: Sequence[GeneratorStats]
    quotas: Sequence[QuotaStats]
    forged: Sequence[ForgedStats]
