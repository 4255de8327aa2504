"""Hands blocks in memory to the tiers below, encoded aside, while nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from sidecar.models.prefix_codec import encode_block, stored_name
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.models.prefix_codec import PrefixCodec
    from sidecar.models.prefix_loads import LowerBlocks
    from sidecar.models.prefix_store import PrefixStore

# Names that wait; more blocks are kept in memory only.
MAX_WAITING = 4096
# A block that a tier did not take is offered again when it is used after so long.
_AGAIN_MS = 300_000

_log = logging.getLogger(__name__)


class PrefixWrites:
    """Writes to ``lower`` what memory has, in the order in which it came.

    Only names wait, so that it takes no memory: a block that was evicted meanwhile is not written.
    ``ttl`` is the lifetime of what is written, in seconds, None for ever; ``now_ms`` is since the
    Unix epoch.
    """

    def __init__(
        self,
        store: PrefixStore,
        lower: Sequence[LowerBlocks],
        codec: PrefixCodec,
        ttl: float | None,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._lower = lower
        self._codec = codec
        self._ttl = ttl
        self._now_ms = now_ms
        # How many of the tiers a block goes to, and when it expires there.
        self._waiting: dict[bytes, tuple[int, int]] = {}
        # When a block in memory is to be written anew: mostly, when what was written expires.
        self._renewals: dict[bytes, int] = {}
        self._task: asyncio.Task[None] | None = None
        # Of failures that follow each other, the first is logged.
        self._has_failed = False

    def add(self, key: bytes) -> None:
        """Has a block written to all tiers."""
        expires_ms = 0 if self._ttl is None else self._now_ms() + int(self._ttl * 1000)
        self._queue(key, len(self._lower), expires_ms)

    def found(self, key: bytes, expires_ms: int, tier: int) -> None:
        """Has a block that came from a tier written to those above it."""
        self._queue(key, tier, expires_ms)

    def renew(self, keys: Sequence[bytes]) -> None:
        """Has blocks that are used written anew if what was written of them has expired."""
        now_ms = self._now_ms()
        for key in keys:
            if 0 < self._renewals.get(key, 0) <= now_ms:
                self.add(key)

    async def flush(self, seconds: float) -> bool:
        """Waits up to ``seconds`` until the tiers have been handed all; returns whether they have.

        They write when they come to it.
        """
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=seconds)
        return self._task is None or self._task.done()

    async def close(self) -> None:
        """Drops what waits."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _queue(self, key: bytes, tiers: int, expires_ms: int) -> None:
        if not self._lower or len(self._waiting) >= MAX_WAITING:
            return
        if len(self._renewals) > 2 * len(self._store) + MAX_WAITING:
            held = (key for key in self._renewals if self._store.peek(key) is not None)
            self._renewals = {key: self._renewals[key] for key in held}
        self._renewals[key] = expires_ms
        if tiers:
            self._waiting[key] = (tiers, expires_ms)
            if self._task is None or self._task.done():
                self._task = create_shared_task(self._drain())

    async def _drain(self) -> None:
        while self._waiting:
            key = next(iter(self._waiting))
            tiers, expires_ms = self._waiting.pop(key)
            try:
                taken = await self._write(key, tiers, expires_ms)
            except Exception as error:
                taken = False
                if not self._has_failed:
                    _log.warning("blocks of prompts are not shared (%s)", type(error).__name__)
                self._has_failed = True
            if not taken:
                self._renewals[key] = self._now_ms() + _AGAIN_MS

    async def _write(self, key: bytes, tiers: int, expires_ms: int) -> bool:
        """Returns False if a tier is to be offered the block again."""
        block = self._store.peek(key)
        if block is None:
            return True
        name = stored_name(key, self._codec)
        value = await asyncio.to_thread(encode_block, block, name, self._codec, expires_ms)
        if value is None:
            return True
        puts = (tier.put(name, value, expires_ms) for tier in self._lower[:tiers])
        taken = all(await asyncio.gather(*puts))
        self._has_failed = False
        return taken
