from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sidecar.cache.codec import (
    Codec,
    CorruptValueError,
    Entry,
    Value,
    decode_vector,
    encode_vector,
    pack,
    split_scale,
    transcode,
    unpack,
)

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VECTORS = hnp.arrays(np.float32, st.integers(0, 64), elements=FINITE)
TAGS = st.lists(
    st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 2**62)), max_size=3
).map(tuple)
OF_VECTORS = [Codec.FLOAT32, Codec.FLOAT16, Codec.INT8]


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    codec = draw(st.sampled_from(Codec))
    if codec is Codec.BYTES:
        payload = draw(st.binary(max_size=64))
        dimensions = len(payload)
    else:
        vector = draw(VECTORS)
        payload, dimensions = encode_vector(vector, codec), len(vector)
    return Entry(
        value=Value(
            payload,
            codec,
            dimensions,
            draw(st.integers(0, 2**32 - 1)),
            draw(st.booleans()),
        ),
        created_ms=draw(st.integers(0, 2**60)),
        expires_ms=draw(st.integers(0, 2**60)),
        content=draw(st.sampled_from([b"", b"c" * 16])),
        tags=draw(TAGS),
    )


@given(VECTORS)
def test_float32_is_bit_identical(vector: np.ndarray) -> None:
    decoded = decode_vector(encode_vector(vector, Codec.FLOAT32), Codec.FLOAT32)
    assert decoded.tobytes() == vector.astype("<f4").tobytes()


@given(hnp.arrays(np.float32, st.integers(1, 64), elements=st.floats(-1, 1, width=32)))
def test_float16_is_within_half_precision(vector: np.ndarray) -> None:
    decoded = decode_vector(encode_vector(vector, Codec.FLOAT16), Codec.FLOAT16)
    assert np.all(np.abs(decoded - vector) <= np.abs(vector) * 2**-11 + 2**-25)


@given(VECTORS.filter(len))
def test_int8_is_within_half_a_step(vector: np.ndarray) -> None:
    scale, elements = split_scale(encode_vector(vector, Codec.INT8))
    decoded = decode_vector(encode_vector(vector, Codec.INT8), Codec.INT8).astype(np.float64)
    assert len(elements) == len(vector)
    # The smallest scales are coarse themselves: they are subnormal numbers.
    assert np.all(np.abs(decoded - vector) <= 0.5001 * max(scale, 2**-126))


@given(VECTORS, st.sampled_from(OF_VECTORS))
def test_every_codec_keeps_finite_vectors_finite(vector: np.ndarray, codec: Codec) -> None:
    assert np.isfinite(decode_vector(encode_vector(vector, codec), codec)).all()


@given(VECTORS, st.sampled_from(OF_VECTORS), st.sampled_from(OF_VECTORS))
def test_transcoding_gives_the_wanted_length(vector: np.ndarray, one: Codec, two: Codec) -> None:
    payload = transcode(encode_vector(vector, one), one, two)
    assert len(payload) == two.payload_bytes(len(vector))


@given(entries(), st.binary(max_size=40))
def test_an_entry_comes_back_as_it_was(entry: Entry, key: bytes) -> None:
    assert unpack(pack(entry, key), key) == entry


@given(entries(), st.data())
def test_a_changed_byte_is_corrupt(entry: Entry, data: st.DataObject) -> None:
    packed = bytearray(pack(entry, b"key"))
    position = data.draw(st.integers(0, len(packed) - 1))
    packed[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptValueError):
        unpack(bytes(packed), b"key")


@given(entries(), st.data())
def test_a_truncated_or_longer_value_is_corrupt(entry: Entry, data: st.DataObject) -> None:
    packed = pack(entry, b"key")
    cut = data.draw(st.integers(0, len(packed) - 1))
    for wrong in (packed[:cut], packed + b"\0"):
        with pytest.raises(CorruptValueError):
            unpack(wrong, b"key")


@given(entries())
def test_a_value_copied_to_another_key_is_corrupt(entry: Entry) -> None:
    with pytest.raises(CorruptValueError):
        unpack(pack(entry, b"mine"), b"yours")


@given(st.binary(max_size=200))
def test_any_bytes_are_corrupt_or_an_entry(data: bytes) -> None:
    try:
        entry = unpack(data, b"key")
    except CorruptValueError:
        return
    assert pack(entry, b"key") == data


@pytest.mark.parametrize(
    ("codec", "most"),
    [(Codec.FLOAT32, 4 * 384 + 48), (Codec.FLOAT16, 2 * 384 + 48), (Codec.INT8, 384 + 52)],
)
def test_a_vector_of_384_elements_takes_no_more_than_documented(codec: Codec, most: int) -> None:
    payload = encode_vector(np.ones(384, np.float32), codec)
    assert len(pack(Entry(Value(payload, codec, 384, 9, False), 1, 2), b"key")) <= most
