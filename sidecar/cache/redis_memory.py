"""How much memory Redis uses, asked for now and then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

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
                nodes = await self._warm.run(_info)
            except WarmUnavailableError:
                self.used_bytes = self.limit_bytes = 0
            else:
                self.used_bytes = sum(int(node["used_memory"]) for node in nodes)
                self.limit_bytes = sum(int(node["maxmemory"]) for node in nodes)
            await asyncio.sleep(ASK_EVERY_SECONDS)


async def _info(client: Client) -> list[dict[str, Any]]:
    if isinstance(client, RedisCluster):
        replies = await client.execute_command(
            "INFO", "memory", target_nodes=RedisCluster.PRIMARIES
        )
        # A cluster of one node answers without its name.
        return [replies] if "used_memory" in replies else list(replies.values())
    reply: dict[str, Any] = await client.info("memory")
    return [reply]
