"""The sidecar under load: what it holds before a run, and what its statistics say of one."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2, search_pb2_grpc

from bench.ghz.scenarios import NEW, STORED, documents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.ghz.scenarios import Calls, Kind, Scenario

# So often is looked whether Redis has what was written; it is written behind the answer.
_TRIES = 20


class Target:
    """A sidecar at an address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address)
        self._cache = cache_pb2_grpc.CacheServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def store_documents(self, texts: Sequence[str]) -> None:
        """Gives both namespaces something to search."""
        stub = search_pb2_grpc.SearchServiceStub(self._channel)
        for namespace in (STORED, NEW):
            stub.Upsert(documents(texts, namespace))

    def store(self, scenario: Scenario, calls: Calls) -> None:
        """Lets Redis have the answers to all calls but those that are to be new."""
        messages = [*calls.of("hot"), *calls.of("warm")]
        for _ in range(_TRIES):
            self._flush()
            before = self.answered(scenario.kind)["computed"]
            self.send(scenario, messages)
            if self.answered(scenario.kind)["computed"] == before:
                return
        raise RuntimeError(f"Redis does not keep the answers of {scenario.name}")

    def reset(self, scenario: Scenario, calls: Calls) -> None:
        """Lets each call of the scenario be answered by the tier it was drawn for."""
        whole = cache_pb2.InvalidateRequest.WholeNamespace()
        self._cache.Invalidate(cache_pb2.InvalidateRequest(namespace=NEW, whole_namespace=whole))
        self._flush()
        for _ in range(2):  # from Redis, then from memory
            self.send(scenario, calls.of("hot"))

    def send(self, scenario: Scenario, messages: Sequence[bytes]) -> list[bytes]:
        """Calls with each message; returns the answers in their order."""
        return asyncio.run(self._send(scenario, messages))

    def answered(self, kind: Kind) -> Counter[str]:
        """Items of a kind since start, by tier, and those that failed."""
        counts: Counter[str] = Counter()
        for usage in self._cache.Stats(cache_pb2.StatsRequest()).usage:
            if usage.kind == kind:
                counts["failed"] += usage.failed
                for each in usage.answered:
                    counts[common_pb2.Tier.Name(each.tier).removeprefix("TIER_").lower()] += (
                        each.count
                    )
        return counts

    def _flush(self) -> None:
        self._cache.Flush(cache_pb2.FlushRequest(tiers=[common_pb2.TIER_HOT]))

    async def _send(self, scenario: Scenario, messages: Sequence[bytes]) -> list[bytes]:
        at_a_time = asyncio.Semaphore(scenario.settings["concurrency"])
        async with grpc.aio.insecure_channel(self.address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
            call = channel.unary_unary(scenario.method)

            async def send(message: bytes) -> bytes:
                async with at_a_time:
                    return await call(message)

            return await asyncio.gather(*map(send, messages))
