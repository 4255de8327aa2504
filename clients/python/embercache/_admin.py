"""Reads the answers of administrative calls: protobuf messages to plain values."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from embercache._search_answers import tier_counts
from embercache.generate import GeneratorModel
from embercache.results import tier
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
from embercache.types import MigrateModelProgress, Model, WarmProgress
from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance
    from google.protobuf.message import Message

    from embercache.stats import WarmTierState
    from embercache.types import MigrationStage
    from embercache.v1 import embed_pb2, generate_pb2

_Plain = TypeVar("_Plain", bound="DataclassInstance")

_WARM_STATES: Mapping[int, WarmTierState] = {
    cache_pb2.WarmState.STATE_OFF: "off",
    cache_pb2.WarmState.STATE_UP: "up",
    cache_pb2.WarmState.STATE_DOWN: "down",
}

_STAGES: Mapping[int, MigrationStage] = {
    cache_pb2.MigrateModelProgress.STAGE_DOCUMENTS: "documents",
    cache_pb2.MigrateModelProgress.STAGE_QUERIES: "queries",
    cache_pb2.MigrateModelProgress.STAGE_SWITCHED: "switched",
}

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""  # HealthCheckRequest for the server as a whole
HEALTH_SERVING = b"\x08\x01"  # HealthCheckResponse with status SERVING


def models(response: embed_pb2.ListModelsResponse) -> list[Model]:
    """The models, the default one first."""
    return [_plain(Model, model, prompts=dict(model.prompts)) for model in response.models]


def generators(response: generate_pb2.ListGeneratorsResponse) -> list[GeneratorModel]:
    """The generators, the default one first."""
    return [_plain(GeneratorModel, generator) for generator in response.generators]


def stats(response: cache_pb2.StatsResponse) -> Stats:
    """The counters."""
    return _plain(
        Stats,
        response,
        tiers={tier(each.tier): _plain(TierStats, each) for each in response.tiers},
        disk=_plain(DiskState, response.disk) if response.HasField("disk") else None,
        warm=_plain(
            WarmState,
            response.warm,
            state=_WARM_STATES.get(response.warm.state, "unspecified"),
        ),
        models=[_plain(ModelStats, model) for model in response.models],
        usage=[
            _plain(UsageStats, each, answered=tier_counts(each.answered)) for each in response.usage
        ],
        semantic=[
            SemanticStats(each.namespace, [_band(band) for band in each.bands])
            for each in response.semantic
        ],
        generators=[
            _plain(
                GeneratorStats,
                each,
                prefix=_prefix(each.prefix) if each.HasField("prefix") else None,
            )
            for each in response.generators
        ],
        quotas=[_plain(QuotaStats, each) for each in response.quotas],
        forged=[_plain(ForgedStats, each, tier=tier(each.tier)) for each in response.forged],
    )


def migration(_: int, message: cache_pb2.MigrateModelProgress) -> MigrateModelProgress:
    """How far a migration is; it has one part."""
    stage = _STAGES.get(message.stage, "unspecified")
    return _plain(MigrateModelProgress, message, stage=stage)


class WarmTotals:
    """Adds up the parts of one warming. ``total`` is None if the sidecar is to tell it."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._parts: dict[int, cache_pb2.WarmProgress] = {}

    def add(self, part: int, message: cache_pb2.WarmProgress) -> WarmProgress:
        """Takes how far a part is; returns how far the whole is."""
        self._parts[part] = message
        parts = self._parts.values()
        return WarmProgress(
            total=message.total if self._total is None else self._total,
            cached=sum(each.cached for each in parts),
            computed=sum(each.computed for each in parts),
            failed=sum(each.failed for each in parts),
        )


def _prefix(prefix: cache_pb2.PrefixStats) -> PrefixStats:
    return _plain(
        PrefixStats,
        prefix,
        reused_tokens=tier_counts(prefix.reused_tokens),
        bandwidths={tier(each.tier): each.bytes_per_second for each in prefix.bandwidths},
    )


def _band(band: cache_pb2.SemanticStats.Band) -> SemanticBand:
    # "from" cannot be the name of an attribute.
    return _plain(SemanticBand, band, start=getattr(band, "from"), end=band.to)


def _plain(cls: type[_Plain], message: Message, **given: object) -> _Plain:
    """A dataclass of the message's fields of the same names, but for those given."""
    names = [each.name for each in fields(cls) if each.name not in given]
    values: dict[str, Any] = {name: getattr(message, name) for name in names} | given
    return cls(**values)
