"""Reads the answers of administrative calls: protobuf messages to plain values."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

from embercache.results import tier
from embercache.types import DiskState, Model, ModelStats, Stats, TierStats, WarmState
from embercache.v1 import cache_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from embercache.types import WarmTierState
    from embercache.v1 import embed_pb2

_Plain = TypeVar("_Plain", DiskState, Model, ModelStats, TierStats)

_WARM_STATES: Mapping[int, WarmTierState] = {
    cache_pb2.WarmState.STATE_OFF: "off",
    cache_pb2.WarmState.STATE_UP: "up",
    cache_pb2.WarmState.STATE_DOWN: "down",
}

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
HEALTH_REQUEST = b""  # HealthCheckRequest for the server as a whole
HEALTH_SERVING = b"\x08\x01"  # HealthCheckResponse with status SERVING


def models(response: embed_pb2.ListModelsResponse) -> list[Model]:
    """The models, the default one first."""
    return [_plain(Model, model, prompts=dict(model.prompts)) for model in response.models]


def stats(response: cache_pb2.StatsResponse) -> Stats:
    """The counters."""
    return Stats(
        version=response.version,
        uptime_seconds=response.uptime_seconds,
        response_hits=response.response_hits,
        items_failed=response.items_failed,
        tiers={tier(each.tier): _plain(TierStats, each) for each in response.tiers},
        disk=_plain(DiskState, response.disk) if response.HasField("disk") else None,
        warm=WarmState(
            state=_WARM_STATES.get(response.warm.state, "unspecified"),
            errors=response.warm.errors,
            skipped=response.warm.skipped,
            writes_dropped=response.warm.writes_dropped,
        ),
        models=[_plain(ModelStats, model) for model in response.models],
    )


def _plain(cls: type[_Plain], message: Message, **given: object) -> _Plain:
    """A dataclass of the message's fields of the same names, but for those given."""
    names = [each.name for each in fields(cls) if each.name not in given]
    values: dict[str, Any] = {name: getattr(message, name) for name in names} | given
    return cls(**values)
