"""Sealed values open where they were sealed for, and nowhere else."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.codec import CorruptValueError, unpack
from sidecar.cache.key_ring import KeyRing
from sidecar.cache.sealing import FORMAT, NotOpenedError, Reason, Sealer

ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
DOMAIN, NAME, DATA = b"entries", b"embercache:embed:a:m:1:7:00", b"a vector" * 20
NONCE_BYTES = 12


@dataclass
class Keys:
    """Keys that a test changes."""

    ring: KeyRing


def ring(**keys: bytes) -> KeyRing:
    return KeyRing(next(iter(keys)), keys)


def sealer(**keys: bytes) -> Sealer:
    return Sealer(Keys(ring(**keys or {"one": ONE})))


SEALER = sealer()
SEALED = SEALER.seal(DOMAIN, NAME, DATA)


def refusal(
    opened_by: Sealer, sealed: bytes, domain: bytes = DOMAIN, name: bytes = NAME
) -> Reason | None:
    """Why a value does not open; None if it does."""
    try:
        opened_by.open(domain, name, sealed)
    except NotOpenedError as error:
        return error.reason
    return None


def nonce_of(sealed: bytes) -> bytes:
    """Salt and nonce: what no two values of any process may have in common."""
    start = 2 + sealed[1]
    return sealed[start : start + 16 + NONCE_BYTES]


@given(st.binary(max_size=16), st.binary(max_size=64), st.binary(max_size=256))
def test_what_was_sealed_comes_back(domain: bytes, name: bytes, data: bytes) -> None:
    sealed = SEALER.seal(domain, name, data)
    assert SEALER.open(domain, name, sealed) == data
    # Another process, with the same key.
    assert sealer().open(domain, name, sealed) == data


def test_nothing_of_the_data_shows() -> None:
    assert DATA[:8] not in SEALED
    assert SEALER.seal(DOMAIN, NAME, DATA) != SEALED


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_a_value_with_any_bit_flipped_does_not_open(bit: int) -> None:
    changed = bytearray(SEALED)
    changed[bit // 8] ^= 1 << bit % 8
    assert refusal(SEALER, bytes(changed)) is not None


@given(st.integers(0, len(SEALED) - 1))
def test_a_value_that_was_cut_short_does_not_open(length: int) -> None:
    assert refusal(SEALER, SEALED[:length]) == ("forged" if length else "unsealed")


@given(st.binary(min_size=1, max_size=32))
def test_a_value_with_something_behind_it_does_not_open(more: bytes) -> None:
    assert refusal(SEALER, SEALED + more) == "forged"


@given(st.binary(max_size=64).filter(lambda name: name != NAME))
def test_a_value_that_was_copied_to_another_name_does_not_open(name: bytes) -> None:
    assert refusal(SEALER, SEALED, name=name) == "forged"


@given(st.binary(max_size=16).filter(lambda domain: domain != DOMAIN))
def test_a_value_of_another_domain_does_not_open(domain: bytes) -> None:
    assert refusal(SEALER, SEALED, domain=domain) == "forged"


@given(st.binary(min_size=2, max_size=12), st.data())
def test_domain_and_name_are_not_confused(joined: bytes, data: st.DataObject) -> None:
    one, two = (data.draw(st.integers(0, len(joined))) for _ in range(2))
    sealed = SEALER.seal(joined[:one], joined[one:], DATA)
    assert (refusal(SEALER, sealed, joined[:two], joined[two:]) is None) == (one == two)


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_for_a_reason(data: bytes) -> None:
    expected = {"forged", "unknown_key"} if data[:1] == bytes([FORMAT]) else {"unsealed"}
    assert refusal(SEALER, data) in expected


@given(st.binary(max_size=100))
def test_bytes_that_look_sealed_are_refused(data: bytes) -> None:
    head = bytes([FORMAT, 3]) + b"one"
    assert refusal(SEALER, head + data) == "forged"


def test_parts_of_two_values_do_not_make_a_third() -> None:
    other = SEALER.seal(DOMAIN, NAME, bytes(len(DATA)))
    start = SEALED.index(nonce_of(SEALED)) + len(nonce_of(SEALED))
    assert refusal(SEALER, SEALED[:start] + other[start:]) == "forged"
    assert refusal(SEALER, SEALED[:-16] + other[-16:]) == "forged"


def test_no_two_values_of_any_process_share_a_nonce_under_a_key() -> None:
    processes = [sealer() for _ in range(50)]
    nonces = {
        nonce_of(process.seal(DOMAIN, NAME, DATA)) for process in processes for _ in range(20)
    }
    assert len(nonces) == 50 * 20


def test_threads_do_not_share_nonces() -> None:
    shared, seen = sealer(), []

    def seal() -> None:
        seen.extend(nonce_of(shared.seal(DOMAIN, NAME, DATA)) for _ in range(500))

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 4 * 500


def test_the_first_key_seals_and_all_open() -> None:
    keys = Keys(ring(one=ONE))
    rotated = Sealer(keys)
    old = rotated.seal(DOMAIN, NAME, b"old")
    keys.ring = ring(two=TWO, one=ONE)
    new = rotated.seal(DOMAIN, NAME, b"new")
    assert (old[2:5], new[2:5]) == (b"one", b"two")
    assert [rotated.open(DOMAIN, NAME, value) for value in (old, new)] == [b"old", b"new"]
    assert [rotated.is_current(value) for value in (old, new)] == [False, True]


def test_a_removed_key_opens_nothing_any_more() -> None:
    keys = Keys(ring(one=ONE))
    rotated = Sealer(keys)
    old = rotated.seal(DOMAIN, NAME, b"old")
    assert refusal(rotated, old) is None
    keys.ring = ring(two=TWO)
    assert refusal(rotated, old) == "unknown_key"


def test_another_key_under_the_same_id_opens_nothing() -> None:
    assert refusal(sealer(one=THREE), SEALED) == "forged"


def test_without_encryption_a_sealed_value_is_corrupt() -> None:
    with pytest.raises(CorruptValueError):
        unpack(SEALED, NAME)
