"""What a sidecar says of its answers: a client that looks at HTTP status cannot tell an error."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2

from bench.load import LoadError

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_stats(address: str) -> cache_pb2.StatsResponse:
    """The counters of the sidecar at an address."""
    with grpc.insecure_channel(address) as channel:
        return cache_pb2_grpc.CacheServiceStub(channel).Stats(cache_pb2.StatsRequest())


def items_of(stats: cache_pb2.StatsResponse, tier: int) -> int:
    """The items that a tier has answered."""
    return sum(each.answered for each in stats.tiers if each.tier == tier)


@contextlib.contextmanager
def all_whole_hits(address: str, calls: int) -> Iterator[None]:
    """Raises `LoadError` unless so many calls were answered whole from memory meanwhile."""
    before = read_stats(address).response_hits
    yield
    _expect(calls, read_stats(address).response_hits - before, "calls as hits")


@contextlib.contextmanager
def all_from_redis(address: str, items: int) -> Iterator[None]:
    """Raises `LoadError` unless Redis answered so many items meanwhile."""
    before = items_of(read_stats(address), common_pb2.TIER_WARM)
    yield
    after = items_of(read_stats(address), common_pb2.TIER_WARM)
    _expect(items, after - before, "items from Redis")


def _expect(asked: int, answered: int, what: str) -> None:
    if answered < asked:
        raise LoadError(f"{asked} were asked for, and the sidecar answered {answered} {what}")
