"""Blocks of prompts' keys and values in memory, with what generations at work take beside them.

A block is found by its name, which names all blocks before it too, and is of use only together
with them. So blocks are taken and kept as chains from the first one on, and what goes first when
room is needed is the least recently used block that no held block follows.

Used from one event loop only, so it needs no lock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

Block: TypeAlias = "NDArray[Any]"
"""Keys and values of consecutive tokens, read-only: float16 or float32 of shape
``[2 * layers, kv_heads, tokens, head_dim]``."""


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """What all blocks of a model are like: their shape, and the numbers that it computes with."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        """The size of a block; one in float16, where that loses nothing, may have half."""
        return math.prod(self.shape) * self.dtype.itemsize

    def fits(self, block: Block) -> bool:
        """Whether the model can go on from a block: it is of its shape, and its numbers finite."""
        if block.shape != self.shape or block.dtype not in (np.float16, self.dtype):
            return False
        if block.dtype == np.float16:
            # By the exponents: numpy's own test of halves takes twenty times as long.
            return bool((block.view(np.uint16) & 0x7C00).max() < 0x7C00)
        return bool(np.isfinite(block).all())


# What a block costs beside its name and elements: the objects and its places in two dictionaries,
# measured with tracemalloc (tests/unit/models/test_prefix_store.py).
BLOCK_OVERHEAD_BYTES = 640


class _Held:
    """A block in memory. ``pins`` counts the chains in use that it is part of."""

    __slots__ = ("block", "is_findable", "key", "pins", "size")

    def __init__(self, key: bytes, block: Block) -> None:
        self.key = key
        self.block = block
        self.size = block.nbytes + len(key) + BLOCK_OVERHEAD_BYTES
        self.pins = 0
        self.is_findable = True


class PrefixStore:
    """Blocks and reservations within ``capacity_bytes`` together.

    A block in use is never evicted, and of a chain in use every block is in use. The others are in
    the order in which they go. A chain that is let go joins its end with its last block first: no
    block is before one that follows it in its prompt, so that the first in order is always a leaf.

    ``on_room`` is called when there may be more `room` than before.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.evictions = 0
        self.pinned_blocks = 0
        self.on_room: Callable[[], None] = lambda: None
        self._held: dict[bytes, _Held] = {}
        # Those of them that are not in use.
        self._idle: OrderedDict[bytes, _Held] = OrderedDict()
        self._idle_bytes = 0
        self._pinned_bytes = 0
        self._reserved = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def used_bytes(self) -> int:
        """What counts against the capacity: blocks, and what is reserved."""
        return self._idle_bytes + self._pinned_bytes + self._reserved

    @property
    def room(self) -> int:
        """Bytes that can be had, by evicting whatever is not in use."""
        return self.capacity_bytes - self._pinned_bytes - self._reserved

    def hold(self, keys: Sequence[bytes]) -> Chain:
        """The longest chain of held blocks that ``keys`` begin with, in use from now on."""
        chain = Chain(self)
        chain.advance(keys)
        return chain

    def peek(self, key: bytes) -> Block | None:
        """The block, which stays as likely to go as it was."""
        held = self._held.get(key)
        return None if held is None else held.block

    def reserve(self, n_bytes: int) -> bool:
        """Takes room, evicting blocks; returns False, with nothing changed, if there is none."""
        if not self._make_room(n_bytes):
            return False
        self._reserved += n_bytes
        return True

    def free(self, n_bytes: int) -> None:
        """Gives back room that was reserved. Raises `ValueError` if that was less."""
        if n_bytes > self._reserved:
            raise ValueError(f"{n_bytes} bytes are freed, but only {self._reserved} are reserved")
        self._reserved -= n_bytes
        self.on_room()

    def clear(self) -> None:
        """Forgets all blocks. Those in use take room until they are let go."""
        for held in self._held.values():
            held.is_findable = False
        self._held.clear()
        self._idle.clear()
        self._idle_bytes = 0

    def _make_room(self, n_bytes: int) -> bool:
        if n_bytes > self.room:
            return False
        while self.used_bytes + n_bytes > self.capacity_bytes:
            key, first = self._idle.popitem(last=False)
            del self._held[key]
            self._idle_bytes -= first.size
            self.evictions += 1
        return True

    def _add(self, key: bytes, block: Block) -> _Held | None:
        """Holds a new block, in use by nobody yet; None if there is no room."""
        held = _Held(key, block)
        if not self._make_room(held.size):
            return None
        self._held[key] = self._idle[key] = held
        self._idle_bytes += held.size
        return held

    def _pin(self, held: _Held) -> None:
        if held.pins == 0:
            del self._idle[held.key]
            self._idle_bytes -= held.size
            self._pinned_bytes += held.size
            self.pinned_blocks += 1
        held.pins += 1

    def _unpin(self, held: _Held) -> None:
        held.pins -= 1
        if held.pins:
            return
        self._pinned_bytes -= held.size
        self.pinned_blocks -= 1
        if held.is_findable:
            self._idle[held.key] = held
            self._idle_bytes += held.size


class Chain:
    """Blocks in use, from the first of a prompt on. `release` them."""

    def __init__(self, store: PrefixStore) -> None:
        self._store = store
        self._held: list[_Held] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks in their order."""
        return tuple(held.block for held in self._held)

    def advance(self, keys: Sequence[bytes]) -> None:
        """Goes on along ``keys``, those of the chain included, as far as blocks are held."""
        store = self._store
        if not self._is_findable:
            return
        for index in range(len(self._held), len(keys)):
            held = store._held.get(keys[index])
            if held is None:
                return
            store._pin(held)
            self._held.append(held)

    def extend(self, key: bytes, block: Block) -> bool:
        """Adds the next block, and has it held; one that is held under its name stays.

        Returns False if there is no room, or the chain was forgotten meanwhile.
        """
        store = self._store
        if not self._is_findable:
            return False
        held = store._held.get(key) or store._add(key, block)
        if held is None:
            return False
        store._pin(held)
        self._held.append(held)
        return True

    def release(self) -> None:
        """Lets the blocks go; more often does no harm."""
        while self._held:
            self._store._unpin(self._held.pop())
        self._store.on_room()

    @property
    def _is_findable(self) -> bool:
        return not self._held or self._held[-1].is_findable
