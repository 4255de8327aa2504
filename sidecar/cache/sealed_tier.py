"""Tiers below memory whose values are sealed: what does not open is not there, and is removed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.items import LowerTier
    from sidecar.cache.seals import Seal
    from sidecar.models.prefix_loads import LowerBlocks


class SealedTier:
    """Entries in a tier: see `sidecar.cache.items.LowerTier`."""

    def __init__(self, tier: LowerTier, seal: Seal) -> None:
        self._tier = tier
        self._seal = seal

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The bytes under each key."""
        return _open(self._seal, keys, await self._tier.get_many(keys), self._tier.delete)

    def put(self, key: bytes, value: bytes, expires_ms: int, *, replace: bool) -> None:
        """Queues a write; without ``replace`` an entry that is there stays."""
        self._tier.put(key, self._seal.seal(key, value), expires_ms, replace=replace)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Queues a removal."""
        self._tier.delete(keys)


class SealedBlocks:
    """Blocks of prompts in a tier: see `sidecar.models.prefix_loads.LowerBlocks`.

    They are so large that they are sealed and opened aside, lest the event loop waits.
    """

    def __init__(self, blocks: LowerBlocks, seal: Seal) -> None:
        self._blocks = blocks
        self._seal = seal

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        """The bytes under each name up to the first that is missing, within ``seconds``."""
        sealed = await self._blocks.get_many(names, seconds)
        bad: list[bytes] = []
        values = await asyncio.to_thread(_open, self._seal, names, sealed, bad.extend)
        if bad:
            self._blocks.delete(bad)
        return values

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        """Queues a write, for which it may wait a second; False if there is no room then."""
        sealed = await asyncio.to_thread(self._seal.seal, name, value)
        return await self._blocks.put(name, sealed, expires_ms)

    def delete(self, names: Sequence[bytes]) -> None:
        """Removes blocks."""
        self._blocks.delete(names)


def _open(
    seal: Seal,
    names: Sequence[bytes],
    sealed: Sequence[bytes | None],
    remove: Callable[[list[bytes]], None],
) -> list[bytes | None]:
    """The values that open; the names of the others are removed."""
    values = [
        None if value is None else seal.open(name, value)
        for name, value in zip(names, sealed, strict=True)
    ]
    bad = [
        name
        for name, value, opened in zip(names, sealed, values, strict=True)
        if value is not None and opened is None
    ]
    if bad:
        remove(bad)
    return values
