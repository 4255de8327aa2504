"""Loads blocks from the tiers below memory, as long as that is faster than computing them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sidecar.models.prefix_bandwidth import Bandwidth
from sidecar.models.prefix_codec import CorruptBlockError, decode_block, stored_name
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.models.generation import PrefixTier
    from sidecar.models.prefix_codec import PrefixCodec
    from sidecar.models.prefix_store import Block, BlockLayout, Chain, PrefixStore
    from sidecar.models.prefix_writes import PrefixWrites

# Blocks that are asked for at once: a few, for there may be none, then twice as many each time.
FIRST_ROUND = 8
_MAX_ROUND = 32
# The limit for a round whose blocks take nobody knows how long to compute.
_UNKNOWN_SECONDS = 1.0


class LowerBlocks(Protocol):
    """A tier below memory, as the blocks need it. It never raises: what fails is not there."""

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        """The bytes under each name; what has not come after ``seconds`` is None.

        After the first that is None, the others may be None too.
        """
        ...

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        """Has a block written unless there is one; waits a little while too many wait for that.

        Returns False if it is not even tried. ``expires_ms`` is milliseconds since the Unix epoch,
        0 for never.
        """
        ...

    def delete(self, names: Sequence[bytes]) -> None:
        """Has blocks removed."""
        ...


@dataclass(frozen=True, slots=True)
class _Tier:
    name: PrefixTier
    blocks: LowerBlocks
    bandwidth: Bandwidth


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Blocks that are loaded, and what they are like: see `Prefixes.take`."""

    keys: tuple[bytes, ...]
    layout: BlockLayout
    compute_seconds: float


@dataclass(slots=True)
class _Flight:
    """A load under way. Its blocks stay in use until everyone who waits for it has them."""

    wanted: _Wanted
    chain: Chain
    tiers: dict[bytes, PrefixTier] = field(default_factory=dict)
    waiting: int = 0
    task: asyncio.Task[None] | None = None

    def has_tried(self, keys: Sequence[bytes], index: int) -> bool:
        """Whether the block of ``keys`` at ``index`` is one that it was to load."""
        return self.wanted.keys[index : index + 1] == tuple(keys[index : index + 1])

    def let_go(self) -> None:
        """Has the blocks released when nobody needs them to be in use any more."""
        if self.waiting == 0 and (self.task is None or self.task.done()):
            self.chain.release()


class PrefixLoads:
    """Loads from ``lower``, in order, what memory does not have. Two never load the same at once.

    A round of blocks has as long as computing them would take; what has not come then is computed.
    """

    def __init__(
        self,
        store: PrefixStore,
        lower: Sequence[tuple[PrefixTier, LowerBlocks]],
        writes: PrefixWrites,
        codec: PrefixCodec,
        clock: Callable[[], float],
        now_ms: Callable[[], int],
    ) -> None:
        self.not_worth_loading = 0
        self._store = store
        self._tiers = [_Tier(name, blocks, Bandwidth(clock)) for name, blocks in lower]
        self._writes = writes
        self._codec = codec
        self._clock = clock
        self._now_ms = now_ms
        # By the first block that they load.
        self._flights: dict[bytes, _Flight] = {}

    def bandwidths(self) -> dict[PrefixTier, float]:
        """Of the tiers that something was loaded from: bytes a second."""
        rates = ((tier.name, tier.bandwidth.bytes_per_second) for tier in self._tiers)
        return {name: rate for name, rate in rates if rate is not None}

    async def extend(
        self, chain: Chain, keys: Sequence[bytes], layout: BlockLayout, compute_seconds: float
    ) -> dict[PrefixTier, int]:
        """Loads what comes after ``chain`` along ``keys``; says how many came from which tier."""
        counts: dict[PrefixTier, int] = {}
        while len(chain) < len(keys):
            held = len(chain)
            flight = self._flights.get(keys[held])
            if flight is None:
                flight = self._start(_Wanted(tuple(keys), layout, compute_seconds))
            tiers = await self._join(flight, chain, keys)
            for key in keys[held : len(chain)]:
                tier = tiers.get(key, "hot")
                counts[tier] = counts.get(tier, 0) + 1
            # It may have been for another prompt, and have ended where this one goes on.
            if len(chain) == held or flight.has_tried(keys, len(chain)):
                break
        return counts

    async def close(self) -> None:
        """Gives up what is under way."""
        tasks = [flight.task for flight in self._flights.values() if flight.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, wanted: _Wanted) -> _Flight:
        flight = _Flight(wanted, self._store.hold(wanted.keys))
        first = wanted.keys[len(flight.chain)]
        self._flights[first] = flight

        def landed(_: asyncio.Task[None]) -> None:
            del self._flights[first]
            flight.let_go()

        # A task of its own: whoever is cancelled does not take it from the others.
        flight.task = create_shared_task(self._fly(flight))
        flight.task.add_done_callback(landed)
        return flight

    async def _join(
        self, flight: _Flight, chain: Chain, keys: Sequence[bytes]
    ) -> dict[bytes, PrefixTier]:
        assert flight.task is not None  # noqa: S101 - set when it starts
        flight.waiting += 1
        try:
            await asyncio.wait({flight.task})
            if not flight.task.cancelled():
                flight.task.result()
            chain.advance(keys)
        finally:
            flight.waiting -= 1
            flight.let_go()
        return flight.tiers

    async def _fly(self, flight: _Flight) -> None:
        was_too_slow = False
        for index, tier in enumerate(self._tiers):
            was_too_slow |= not await self._load_from(tier, flight, above=index)
            if len(flight.chain) == len(flight.wanted.keys):
                break
        self.not_worth_loading += was_too_slow

    async def _load_from(self, tier: _Tier, flight: _Flight, above: int) -> bool:
        """Loads up to the first block that the tier does not have.

        Returns False if it ended before because computing is faster.
        """
        wanted, chain, size = flight.wanted, flight.chain, FIRST_ROUND
        while len(chain) < len(wanted.keys):
            if not tier.bandwidth.should_load(wanted.layout.n_bytes, wanted.compute_seconds):
                return False
            keys = wanted.keys[len(chain) : len(chain) + size]
            # Memory for what is loaded is taken before it comes.
            keys = keys[: self._reserve(len(keys), wanted.layout.n_bytes)]
            if not keys:
                return True
            try:
                loaded, was_late = await self._round(tier, keys, wanted)
            finally:
                self._store.free(len(keys) * wanted.layout.n_bytes)
            for key, (block, expires_ms) in zip(keys, loaded, strict=False):
                if not chain.extend(key, block):
                    return True
                flight.tiers[key] = tier.name
                self._writes.found(key, expires_ms, above)
            if len(loaded) < len(keys):
                return not was_late
            size = min(2 * size, _MAX_ROUND)
        return True

    def _reserve(self, blocks: int, block_bytes: int) -> int:
        """Reserves room for as many blocks as there is room for, about; says for how many."""
        while blocks and not self._store.reserve(blocks * block_bytes):
            blocks //= 2
        return blocks

    async def _round(
        self, tier: _Tier, keys: Sequence[bytes], wanted: _Wanted
    ) -> tuple[list[tuple[Block, int]], bool]:
        """The blocks up to the first that the tier does not have, and whether time ran out."""
        names = [stored_name(key, self._codec) for key in keys]
        limit = len(keys) * wanted.compute_seconds or _UNKNOWN_SECONDS
        started = self._clock()
        values = await tier.blocks.get_many(names, limit)
        loaded, corrupt = await asyncio.to_thread(
            _decode, names, values, wanted.layout, self._now_ms()
        )
        seconds = self._clock() - started
        was_late = seconds >= limit
        # That there is nothing says nothing of the bandwidth, unless it took long to find out.
        if loaded or was_late:
            tier.bandwidth.measured(len(loaded) * wanted.layout.n_bytes, seconds)
        if corrupt:
            tier.blocks.delete(corrupt)
        return loaded, was_late


def _decode(
    names: Sequence[bytes], values: Sequence[bytes | None], layout: BlockLayout, now_ms: int
) -> tuple[list[tuple[Block, int]], list[bytes]]:
    """The blocks up to the first that is missing, expired or corrupt; and the names of corrupt."""
    blocks: list[tuple[Block, int]] = []
    for name, value in zip(names, values, strict=True):
        if value is None:
            break
        try:
            block, expires_ms = decode_block(value, name)
        except CorruptBlockError:
            return blocks, [name]
        if not layout.fits(block):
            return blocks, [name]
        if 0 < expires_ms <= now_ms:
            break
        blocks.append((block, expires_ms))
    return blocks, []
