from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidecar.models.prefix_codec import (
    CorruptBlockError,
    PrefixCodec,
    decode_block,
    encode_block,
    stored_name,
)

CODECS: tuple[PrefixCodec, ...] = get_args(PrefixCodec)
SHAPES = hnp.array_shapes(min_dims=4, max_dims=4, min_side=0, max_side=4)
NAMES = st.binary(max_size=40)
codecs = st.sampled_from(CODECS)


def blocks(largest: float | None = None) -> st.SearchStrategy[np.ndarray]:
    def of(dtype: type) -> st.SearchStrategy[np.ndarray]:
        width = np.dtype(dtype).itemsize * 8
        limits = {} if largest is None else {"min_value": -largest, "max_value": largest}
        finite = st.floats(width=width, allow_nan=False, allow_infinity=False, **limits)
        return hnp.arrays(dtype, SHAPES, elements=finite)

    return st.one_of(of(np.float32), of(np.float16))


def encode(block: np.ndarray, name: bytes, codec: PrefixCodec, expires_ms: int = 0) -> bytes:
    data = encode_block(block, name, codec, expires_ms)
    assert data is not None
    return data


def bits(block: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    return block.dtype.str, block.shape, block.tobytes()


@given(blocks(), NAMES, st.integers(0, 2**60))
def test_exact_keeps_every_bit_and_the_expiry(
    block: np.ndarray, name: bytes, expires_ms: int
) -> None:
    decoded, expires = decode_block(encode(block, name, "exact", expires_ms), name)
    assert (bits(decoded), expires) == (bits(block), expires_ms)


@given(blocks(), codecs)
def test_a_block_keeps_its_shape_and_type_and_is_finite_and_read_only(
    block: np.ndarray, codec: PrefixCodec
) -> None:
    decoded, _ = decode_block(encode(block, b"k", codec), b"k")
    assert (decoded.shape, decoded.dtype) == (block.shape, block.dtype)
    assert np.isfinite(decoded).all()
    assert not decoded.flags.writeable


@given(blocks(largest=65504))
def test_float16_is_within_half_precision(block: np.ndarray) -> None:
    decoded, _ = decode_block(encode(block, b"k", "float16"), b"k")
    error = np.abs(decoded.astype(np.float64) - block)
    assert np.all(error <= np.abs(block.astype(np.float64)) * 2**-11 + 2**-25)


@given(blocks(largest=2**15))
def test_int8_is_within_half_a_step_of_its_row(block: np.ndarray) -> None:
    decoded, _ = decode_block(encode(block, b"k", "int8"), b"k")
    steps = np.abs(block.astype(np.float64)).max(axis=-1, keepdims=True, initial=0) / 127
    error = np.abs(decoded.astype(np.float64) - block)
    # A block of float16 is rounded once more; the smallest scales are coarse themselves.
    rounding = np.abs(block.astype(np.float64)) * 2**-10 if block.dtype == np.float16 else 0
    assert np.all(error <= 0.5001 * np.maximum(steps, 2**-126) + rounding + 2**-24)


@pytest.mark.parametrize(
    ("codec", "dtype", "numbers", "element_bytes"),
    [
        ("exact", np.float32, "any", 4),
        ("exact", np.float32, "halves", 2),
        ("exact", np.float16, "halves", 2),
        ("float16", np.float32, "any", 2),
    ],
)
def test_exact_takes_half_the_bytes_where_that_loses_nothing(
    codec: PrefixCodec, dtype: type, numbers: str, element_bytes: int
) -> None:
    block = np.random.default_rng(0).standard_normal((2, 1, 16, 8)).astype(np.float32)
    if numbers == "halves":
        block = block.astype(np.float16)
    assert len(encode(block.astype(dtype), b"k", codec)) == 32 + element_bytes * block.size


def test_int8_takes_a_byte_an_element_and_four_a_row() -> None:
    block = np.ones((2, 1, 16, 8), np.float32)
    assert len(encode(block, b"k", "int8")) == 32 + block.size + 4 * 2 * 16


def test_exact_looks_at_every_element() -> None:
    block = np.zeros((4, 1, 2, 8), np.float32)
    block[-1, -1, -1, -1] = 0.1
    assert bits(decode_block(encode(block, b"k", "exact"), b"k")[0]) == bits(block)


@given(blocks(), codecs, NAMES, NAMES)
def test_a_block_is_corrupt_under_another_name(
    block: np.ndarray, codec: PrefixCodec, name: bytes, other: bytes
) -> None:
    data = encode(block, name, codec)
    if name == other:
        return
    with pytest.raises(CorruptBlockError):
        decode_block(data, other)


@given(blocks(), codecs, st.data())
def test_a_block_with_a_bit_changed_is_corrupt(
    block: np.ndarray, codec: PrefixCodec, data: st.DataObject
) -> None:
    value = bytearray(encode(block, b"k", codec))
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptBlockError):
        decode_block(bytes(value), b"k")


@given(blocks(), codecs, st.data())
def test_a_block_cut_short_or_with_more_behind_it_is_corrupt(
    block: np.ndarray, codec: PrefixCodec, data: st.DataObject
) -> None:
    value = encode(block, b"k", codec)
    with pytest.raises(CorruptBlockError):
        decode_block(value[: data.draw(st.integers(0, len(value) - 1))], b"k")
    with pytest.raises(CorruptBlockError):
        decode_block(value + data.draw(st.binary(min_size=1, max_size=9)), b"k")


@given(st.binary(max_size=200))
def test_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptBlockError):
        decode_block(data, b"k")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_encoded(codec: PrefixCodec, number: float) -> None:
    block = np.ones((2, 1, 2, 2), np.float32)
    block[1, 0, 1, 1] = number
    assert encode_block(block, b"k", codec, 0) is None


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 2), np.float32), np.zeros((2, 2, 2, 2), np.float64)]
)
def test_an_array_that_is_no_block_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a block is float32 or float16 of 4 axes"):
        encode_block(array, b"k", "exact", 0)


def test_a_block_that_is_not_contiguous_is_encoded_as_it_reads() -> None:
    block = np.arange(64, dtype=np.float32).reshape(2, 2, 4, 4).transpose(0, 2, 1, 3)
    decoded, _ = decode_block(encode(block, b"k", "exact"), b"k")
    assert np.array_equal(decoded, block)


def test_codecs_share_no_names() -> None:
    assert len({stored_name(b"key", codec) for codec in CODECS}) == 3
