from __future__ import annotations

import secrets
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache import change_log
from sidecar.cache.change_log import MAX_CHANGES, ChangeLog

TAG = b"t" * 16


def filled(log: ChangeLog, count: int, *, size: int = 10, first: int = 0) -> list[bytes]:
    """Notes steps from generation ``first`` on, one by one."""
    changes = [b"%d" % number + bytes(size) for number in range(first, first + count)]
    for number, change in enumerate(changes, first):
        log.add("n", TAG, number, number + 1, change)
    return changes


@given(st.permutations(range(8)), st.integers(0, 8), st.integers(0, 8))
def test_steps_may_be_heard_of_in_any_order(order: list[int], start: int, end: int) -> None:
    log = ChangeLog()
    for number in order + order[:3]:
        log.add("n", TAG, number, number + 1, b"%d" % number)
    expected = [b"%d" % number for number in range(start, end)] if start <= end else None
    assert log.between("n", TAG, start, end) == expected


@pytest.mark.parametrize("gap", range(5))
def test_one_step_that_is_not_known_makes_all_across_it_unknown(gap: int) -> None:
    log = ChangeLog()
    for number in range(5):
        log.add("n", TAG, number, number + 1, b"" if number == gap else b"change")
    for start in range(6):
        known = start > gap
        assert log.between("n", TAG, start, 5) == ([b"change"] * (5 - start) if known else None)


def test_tags_and_namespaces_are_apart() -> None:
    log = ChangeLog()
    log.add("n", TAG, 1, 2, b"change")
    assert log.between("m", TAG, 1, 2) is None
    assert log.between("n", b"o" * 16, 1, 2) is None


def test_a_step_that_is_heard_of_twice_is_kept_and_counted_once() -> None:
    log = ChangeLog()
    log.add("n", TAG, 1, 2, b"change")
    held = log.bytes
    log.add("n", TAG, 1, 2, b"change")
    assert log.bytes == held
    assert log.between("n", TAG, 1, 2) == [b"change"]


def test_a_step_that_does_not_grow_is_refused() -> None:
    log = ChangeLog()
    log.add("n", TAG, 2, 2, b"change")
    log.add("n", TAG, 3, 1, b"change")
    assert log.bytes == 0


def test_no_more_changes_are_told_than_are_worth_looking_at() -> None:
    log = ChangeLog()
    changes = filled(log, MAX_CHANGES + 1)
    assert log.between("n", TAG, 1, MAX_CHANGES + 1) == changes[1:]
    assert log.between("n", TAG, 0, MAX_CHANGES + 1) is None


def test_the_oldest_steps_are_forgotten_when_the_log_is_full() -> None:
    log = ChangeLog(max_bytes=10_000)
    changes = filled(log, 100, size=500)
    kept = next(start for start in range(101) if log.between("n", TAG, start, 100) is not None)
    assert 5 < 100 - kept < 15
    assert log.bytes <= 10_000
    assert log.between("n", TAG, kept, 100) == changes[kept:]


@pytest.mark.parametrize("size", [1, 300, 8000])
def test_the_bound_on_bytes_is_that_of_the_memory_used(size: int) -> None:
    log = ChangeLog()
    tracemalloc.start()
    for number in range(2000):
        # As they come from the network: every number and every string is an object of its own.
        previous = 1_700_000_000_000_000 + number * 1000
        log.add("n", secrets.token_bytes(16), previous, previous + 999, bytes(size))
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used <= log.bytes
    assert log.bytes < used * 1.6
    assert change_log.MAX_LOG_BYTES == 32 * 2**20
