"""How much memory Redis uses, asked for now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypedDict

from redis.asyncio.cluster import RedisCluster

from sidecar.cache.warm import WarmUnavailableError

if TYPE_CHECKING:
    from sidecar.cache.redis_connect import Client
    from sidecar.cache.warm import WarmTier

ASK_EVERY_SECONDS = 10.0


class RedisMemory:
    """What Redis said last of its memory, of all nodes of a cluster together; 0 before it did.

    ``limit_bytes`` is 0 where there is no limit.
    """

    def __init__(self, warm: WarmTier) -> None:
        self.used_bytes = 0
        self.limit_bytes = 0
        self._warm = warm

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            try:
                nodes = await self._warm.run(memory_info)
            except WarmUnavailableError:
                self.used_bytes = self.limit_bytes = 0
            else:
                self.used_bytes = sum(node["used_memory"] for node in nodes)
                self.limit_bytes = sum(node["maxmemory"] for node in nodes)
            await asyncio.sleep(ASK_EVERY_SECONDS)


class NodeMemory(TypedDict):
    """What one node says of its memory; 0 and empty where it does not say: some forks do not."""

    used_memory: int
    maxmemory: int
    maxmemory_policy: str


async def memory_info(client: Client) -> list[NodeMemory]:
    """What Redis says of its memory, node by node."""
    return [
        NodeMemory(
            used_memory=int(node.get("used_memory", 0)),
            maxmemory=int(node.get("maxmemory", 0)),
            maxmemory_policy=str(node.get("maxmemory_policy", "")),
        )
        for node in await _info(client)
    ]


async def _info(client: Client) -> list[dict[str, Any]]:
    if isinstance(client, RedisCluster):
        replies = await client.execute_command(
            "INFO", "memory", target_nodes=RedisCluster.PRIMARIES
        )
        # A cluster of one node answers without its name.
        return [replies] if "used_memory" in replies else list(replies.values())
    reply: dict[str, Any] = await client.info("memory")
    return [reply]
