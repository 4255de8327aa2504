"""What a generator keeps of prompts: blocks of keys and values, in memory and in tiers below."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from sidecar.models.generation import PrefixReport
from sidecar.models.prefix_loads import PrefixLoads
from sidecar.models.prefix_store import BLOCK_OVERHEAD_BYTES, PrefixStore
from sidecar.models.prefix_writes import PrefixWrites

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.models.generation import PrefixTier
    from sidecar.models.prefix_codec import PrefixCodec
    from sidecar.models.prefix_loads import LowerBlocks
    from sidecar.models.prefix_store import Block, BlockLayout, Chain

# Blocks that are copied at once to be kept: they take memory before they count.
COPIED_BLOCKS = 32


class Lease:
    """The first blocks of a prompt, in use until `release`. Also a context that releases.

    ``reused`` says how many came from which tier, and ``seconds`` how long loading them took.
    """

    def __init__(self, chain: Chain, reused: Mapping[PrefixTier, int], seconds: float) -> None:
        self.blocks = chain.blocks
        self.reused = reused
        self.seconds = seconds
        self._chain = chain

    def release(self) -> None:
        """Lets the blocks go: they may be evicted from now on. More often does no harm."""
        self.blocks = ()
        self._chain.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Prefixes:
    """Blocks of prompts, and the memory of generations, within one bound. For one event loop.

    A block is an array of float16 or float32, ``[2 * layers, kv_heads, tokens, head_dim]``, and is
    not changed any more. Its key names it together with all blocks before it.

    Args:
        capacity_bytes: of blocks in memory and of what is reserved, together.
        lower: the tiers to share blocks with, the fastest first; may be none.
        codec: how blocks are written there. With any but ``exact``, a prompt that is continued
            from them may be answered a little differently.
        ttl: lifetime there in seconds, None for ever.
        clock: monotonic seconds, to measure what loading takes.
        wall_clock: seconds since the Unix epoch, for lifetimes.
    """

    def __init__(
        self,
        capacity_bytes: int,
        lower: Sequence[tuple[PrefixTier, LowerBlocks]] = (),
        *,
        codec: PrefixCodec = "exact",
        ttl: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        def now_ms() -> int:
            return int(wall_clock() * 1000)

        self._clock = clock
        self._store = PrefixStore(capacity_bytes)
        tiers = [blocks for _, blocks in lower]
        self._writes = PrefixWrites(self._store, tiers, codec, ttl, now_ms)
        self._loads = PrefixLoads(self._store, lower, self._writes, codec, clock, now_ms)
        self._shares = bool(lower)
        self._reused: dict[PrefixTier, int] = {}

    @property
    def capacity_bytes(self) -> int:
        """What blocks in memory and reserved room take at most, together."""
        return self._store.capacity_bytes

    @property
    def room(self) -> int:
        """Bytes that can be reserved."""
        return self._store.room

    def on_room(self, call: Callable[[], None]) -> None:
        """Has ``call`` called whenever there may be more `room` than before."""
        self._store.on_room = call

    async def take(
        self, keys: Sequence[bytes], layout: BlockLayout, compute_seconds: float
    ) -> Lease:
        """The longest chain of blocks that ``keys`` begin with, from memory or loaded.

        ``layout`` is what each must be like, and ``compute_seconds`` what it takes to compute one,
        0 if that is not known. Nothing is loaded that is computed faster, and no longer than that
        takes. Tiers that fail are as if they had nothing.
        """
        chain = self._store.hold(keys)
        reused: dict[PrefixTier, int] = {"hot": len(chain)} if len(chain) else {}
        seconds = 0.0
        if self._shares:
            self._writes.renew(keys[: len(chain)])
            if len(chain) < len(keys):
                started = self._clock()
                try:
                    more = await self._loads.extend(chain, keys, layout, compute_seconds)
                except BaseException:
                    chain.release()
                    raise
                seconds = self._clock() - started
                for tier, count in more.items():
                    reused[tier] = reused.get(tier, 0) + count
        for tier, count in reused.items():
            self._reused[tier] = self._reused.get(tier, 0) + count
        return Lease(chain, reused, seconds)

    def lacking(self, keys: Sequence[bytes], layout: BlockLayout) -> range:
        """Which blocks of a prompt to copy next for `keep`, if any.

        They are the first that are not kept, up to ``COPIED_BLOCKS`` for which there is room.
        """
        with Lease(self._store.hold(keys), {}, 0.0) as held:
            first = len(held.blocks)
            most = min(len(keys) - first, COPIED_BLOCKS)
            size = layout.n_bytes + BLOCK_OVERHEAD_BYTES + max(map(len, keys), default=0)
            return range(first, first + min(most, self._store.room // size))

    def keep(self, keys: Sequence[bytes], first: int, blocks: Sequence[Block]) -> int:
        """Keeps ``blocks``, which ``keys[first:]`` name, as far as there is room.

        ``keys`` are those of the prompt from its beginning. Nothing is kept unless all blocks
        before ``first`` still are, as those of a lease that was not released yet. A block that is
        kept already stays as it is. An array that owns its memory becomes read-only, a view is
        copied. Returns how many of ``blocks`` are kept then.
        """
        end = first + len(blocks)
        chain = self._store.hold(keys[:end])
        if len(chain) >= first:
            for index in range(len(chain), end):
                if not chain.extend(keys[index], _own(blocks[index - first])):
                    break
                self._writes.add(keys[index])
        kept = max(0, len(chain) - first)
        chain.release()
        return kept

    def reserve(self, n_bytes: int) -> bool:
        """Takes room for a generation, evicting blocks; False, and nothing, if there is none."""
        return self._store.reserve(n_bytes)

    def free(self, n_bytes: int) -> None:
        """Gives back room that was reserved. Raises `ValueError` if that was less."""
        self._store.free(n_bytes)

    def report(self, block_tokens: int) -> PrefixReport:
        """What is kept, and what it was worth since start-up."""
        return PrefixReport(
            reused_tokens={tier: n * block_tokens for tier, n in self._reused.items()},
            blocks=len(self._store),
            pinned_blocks=self._store.pinned_blocks,
            bytes=self._store.used_bytes,
            capacity_bytes=self._store.capacity_bytes,
            evictions=self._store.evictions,
            bandwidths=self._loads.bandwidths(),
            not_worth_loading=self._loads.not_worth_loading,
        )

    def clear(self) -> int:
        """Forgets what is in memory, and says how many blocks; the tiers below keep theirs."""
        count = len(self._store)
        self._store.clear()
        return count

    async def flush(self, seconds: float) -> bool:
        """Waits up to ``seconds`` until the tiers below were handed what they are to keep."""
        return await self._writes.flush(seconds)

    async def close(self) -> None:
        """Ends loads, and drops what was not handed on (`flush` first)."""
        await self._loads.close()
        await self._writes.close()


def _own(block: Block) -> Block:
    """The block in memory of its own: a view would keep all that it is a part of."""
    if block.base is not None:
        block = block.copy()
    block.flags.writeable = False
    return block
