from __future__ import annotations

import gc
import itertools
import os
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from sidecar.models.prefix_codec import decode_block, encode_block
from sidecar.models.prefix_store import BLOCK_OVERHEAD_BYTES, Block, Chain, PrefixStore

SHAPE = (2, 1, 4, 8)
BLOCK_BYTES = 2 * 4 * 8 * 4


def block(fill: float = 0.0) -> Block:
    return np.full(SHAPE, fill, np.float32)


def chain(text: str) -> list[bytes]:
    """Names of blocks: each has the text up to it, as a chain of digests would have."""
    return [text[: end + 1].ljust(8).encode() for end in range(len(text))]


def parent(key: bytes) -> bytes:
    return key.rstrip()[:-1].ljust(8)


SIZE = BLOCK_BYTES + 8 + BLOCK_OVERHEAD_BYTES
ROOT = b" " * 8


def room_for(*texts: str) -> int:
    return SIZE * len({key for text in texts for key in chain(text)})


def fill(store: PrefixStore, text: str) -> Chain:
    """Holds the blocks of a text as far as there is room; they are in use."""
    held = store.hold(chain(text))
    for key in chain(text)[len(held) :]:
        if not held.extend(key, block()):
            break
    return held


def put(store: PrefixStore, *texts: str) -> None:
    for text in texts:
        fill(store, text).release()


def held(store: PrefixStore, text: str) -> int:
    """How many blocks of a text are held, without using them."""
    return sum(store.peek(key) is not None for key in chain(text))


def test_a_prompt_finds_the_longest_chain_that_another_one_left() -> None:
    store = PrefixStore(10**6)
    put(store, "abc")
    assert [len(store.hold(chain(text))) for text in ("abc", "abcd", "abx", "bc", "")] == [
        *(3, 3, 2, 0, 0)
    ]


def test_blocks_are_found_in_the_order_of_the_prompt() -> None:
    store = PrefixStore(10**6)
    held = store.hold(())
    for number, key in enumerate(chain("abc")):
        held.extend(key, block(number))
    assert [found[0, 0, 0, 0] for found in store.hold(chain("abc")).blocks] == [0, 1, 2]


def test_the_first_block_under_a_name_stays() -> None:
    store = PrefixStore(10**6)
    for number in (1, 2):
        assert store.hold(()).extend(chain("a")[0], block(number))
    assert store.hold(chain("a")).blocks[0][0, 0, 0, 0] == 1
    assert (len(store), store.used_bytes) == (1, SIZE)


def test_leaves_go_first_the_least_recently_used_before_the_others() -> None:
    store = PrefixStore(room_for("abc", "axy"))
    put(store, "abc", "axy")
    store.hold(chain("abc")).release()
    put(store, "z")
    assert (held(store, "abc"), held(store, "axy"), store.evictions) == (3, 2, 1)
    put(store, "zzz")
    assert (held(store, "abc"), held(store, "axy"), store.evictions) == (2, 1, 3)


def test_a_block_whose_followers_have_gone_goes_when_its_own_turn_comes() -> None:
    store = PrefixStore(room_for("ab", "xy", "z"))
    put(store, "ab", "xy")
    store.hold(chain("a")).release()
    put(store, "z", "zz", "zzz")
    # "ab" went first; then "xy" and "x" were used longer ago than "a" alone.
    assert [held(store, text) for text in ("ab", "xy", "zzz")] == [1, 1, 3]
    put(store, "zzzz")
    assert [held(store, text) for text in ("ab", "xy", "zzzz")] == [1, 0, 4]


def test_peeking_makes_no_block_less_likely_to_go() -> None:
    store = PrefixStore(room_for("a", "b"))
    put(store, "a", "b")
    assert store.peek(chain("a")[0]) is not None
    put(store, "c")
    assert store.peek(chain("a")[0]) is None


def test_blocks_in_use_are_not_evicted_but_the_new_one_is_refused() -> None:
    store = PrefixStore(room_for("abc"))
    held = fill(store, "abc")
    assert not store.hold(()).extend(chain("z")[0], block())
    assert not store.reserve(1)
    held.release()
    assert store.hold(()).extend(chain("z")[0], block())


def test_of_a_prompt_that_is_larger_than_the_store_the_beginning_is_kept() -> None:
    store = PrefixStore(room_for("abc"))
    put(store, "xyz", "abcdef")
    assert [held(store, text) for text in ("xyz", "abcdef")] == [0, 3]


def test_a_block_that_two_use_is_in_use_until_both_let_go_and_letting_go_twice_is_once() -> None:
    store = PrefixStore(room_for("a"))
    first, second = fill(store, "a"), fill(store, "a")
    first.release()
    first.release()
    assert (store.pinned_blocks, store.reserve(1)) == (1, False)
    second.release()
    assert (store.pinned_blocks, store.reserve(1)) == (0, True)


def test_what_is_reserved_pushes_blocks_out_and_leaves_less_room_for_them() -> None:
    store = PrefixStore(room_for("abc"))
    put(store, "abc")
    assert store.reserve(SIZE)
    assert (held(store, "abc"), store.used_bytes <= store.capacity_bytes) == (2, True)
    put(store, "xyz")
    assert len(store) == 2
    store.free(SIZE)
    put(store, "xyz")
    assert held(store, "xyz") == 3


def test_a_reservation_without_room_evicts_nothing() -> None:
    store = PrefixStore(room_for("abc"))
    put(store, "abc")
    assert not store.reserve(store.capacity_bytes + 1)
    assert held(store, "abc") == 3


def test_more_than_is_reserved_cannot_be_freed() -> None:
    store = PrefixStore(1000)
    assert store.reserve(10)
    with pytest.raises(ValueError, match="11 bytes are freed, but only 10 are reserved"):
        store.free(11)


def test_forgotten_blocks_are_not_found_and_not_built_upon_but_count_while_in_use() -> None:
    store = PrefixStore(room_for("abc"))
    put(store, "abc")
    used = store.hold(chain("ab"))
    store.clear()
    assert (len(store), store.used_bytes, store.pinned_blocks) == (0, room_for("ab"), 2)
    assert [found.shape for found in used.blocks] == [SHAPE] * 2
    assert not used.extend(chain("abc")[2], block())
    used.release()
    assert (len(store), store.used_bytes, store.pinned_blocks) == (0, 0, 0)


def test_a_forgotten_chain_does_not_go_on_with_blocks_that_came_since() -> None:
    store = PrefixStore(10**6)
    used = fill(store, "ab")
    store.clear()
    put(store, "abc")
    used.advance(chain("abc"))
    assert (len(used), used.extend(chain("abc")[2], block())) == (2, False)
    used.release()
    assert (len(store), store.used_bytes, store.pinned_blocks) == (3, room_for("abc"), 0)


def test_a_store_without_capacity_keeps_nothing() -> None:
    store = PrefixStore(0)
    put(store, "abc")
    assert (len(store), store.used_bytes) == (0, 0)


def test_a_block_costs_no_more_than_is_counted_for_it() -> None:
    store = PrefixStore(10**9)
    values = []
    for _ in range(2000):
        key = os.urandom(60)
        value = encode_block(block(), key, "exact", 0)
        assert value is not None
        values.append((key, value))
    gc.collect()
    tracemalloc.start()
    try:
        while values:
            key, value = values.pop()
            # As many bytes as were made before, but made now.
            held = store.hold(())
            held.extend(bytes(bytearray(key)), decode_block(bytes(bytearray(value)), key)[0])
            held.release()
        del held, key, value
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.5 * store.used_bytes < taken <= store.used_bytes


class Machine(RuleBasedStateMachine):
    """Prompts come and go; a plain model says which blocks are to be held."""

    chains = Bundle("chains")

    def __init__(self) -> None:
        super().__init__()
        self.store = PrefixStore(9 * SIZE)
        self.reserved = 0
        # The blocks that are held, the one that was let go longest ago first.
        self.order: list[bytes] = []
        # By how often the store was cleared before, and name.
        self.pins: Counter[tuple[int, bytes]] = Counter()
        self.clears = 0

    def is_pinned(self, key: bytes) -> bool:
        return self.pins[self.clears, key] > 0

    def pinned(self) -> int:
        return sum(pins > 0 for pins in self.pins.values())

    def make_room(self, n_bytes: int) -> bool:
        """Evicts from the model, leaves only."""
        if self.pinned() * SIZE + self.reserved + n_bytes > self.store.capacity_bytes:
            return False
        while self.used_bytes() + n_bytes > self.store.capacity_bytes:
            followed = {parent(key) for key in self.order}
            leaves = (key for key in self.order if key not in followed and not self.is_pinned(key))
            self.order.remove(next(leaves))
        return True

    def used_bytes(self) -> int:
        forgotten = sum(pins > 0 and n != self.clears for (n, _), pins in self.pins.items())
        return (len(self.order) + forgotten) * SIZE + self.reserved

    @rule(target=chains, text=st.text("ab", min_size=1, max_size=6))
    def use(self, text: str) -> tuple[Chain, int, list[bytes]]:
        keys = chain(text)
        opened = self.store.hold(keys)
        found = next((i for i, key in enumerate(keys) if key not in self.order), len(keys))
        assert len(opened) == found
        self.pins.update((self.clears, key) for key in keys[:found])
        for key in keys[found:]:
            has_room = self.make_room(SIZE)
            assert opened.extend(key, block()) == has_room
            if not has_room:
                break
            self.order.append(key)
            self.pins[self.clears, key] += 1
        return opened, self.clears, keys[: len(opened)]

    @rule(used=consumes(chains), times=st.integers(1, 2))
    def let_go(self, used: tuple[Chain, int, list[bytes]], times: int) -> None:
        opened, clears, keys = used
        for _ in range(times):
            opened.release()
        for key in reversed(keys):
            self.pins[clears, key] -= 1
            if clears == self.clears and not self.is_pinned(key):
                self.order.remove(key)
                self.order.append(key)

    @rule(n_bytes=st.integers(0, 4 * SIZE))
    def reserve(self, n_bytes: int) -> None:
        has_room = self.make_room(n_bytes)
        assert self.store.reserve(n_bytes) == has_room
        self.reserved += n_bytes if has_room else 0

    @rule(share=st.floats(0, 1))
    def free(self, share: float) -> None:
        n_bytes = int(self.reserved * share)
        self.store.free(n_bytes)
        self.reserved -= n_bytes

    @rule(rarely=st.integers(0, 5))
    def clear(self, rarely: int) -> None:
        if rarely == 0:
            self.store.clear()
            self.order.clear()
            self.clears += 1

    @invariant()
    def is_within_its_bound(self) -> None:
        assert self.store.used_bytes <= self.store.capacity_bytes

    @invariant()
    def holds_what_it_should(self) -> None:
        prompts = ("".join(p) for n in range(1, 7) for p in itertools.product("ab", repeat=n))
        held = {key for text in prompts for key in chain(text) if self.store.peek(key) is not None}
        assert held == set(self.order)
        assert {parent(key) for key in held} <= held | {ROOT}
        assert {key for (n, key), pins in self.pins.items() if pins and n == self.clears} <= held

    @invariant()
    def counts_right(self) -> None:
        assert len(self.store) == len(self.order)
        assert self.store.used_bytes == self.used_bytes()
        assert self.store.pinned_blocks == self.pinned()


def test_whatever_comes_and_goes_the_store_is_in_its_bound_and_forgets_in_order() -> None:
    run_state_machine_as_test(Machine)
