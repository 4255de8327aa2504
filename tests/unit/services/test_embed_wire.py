from __future__ import annotations

import numpy as np
from embercache.v1 import common_pb2, embed_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.codec import Codec, Entry, Value, decode_vector, encode_vector
from sidecar.cache.items import Tier
from sidecar.services.embed_wire import ResponseWriter, length_delimited, varint

ENTRIES = st.builds(
    lambda elements, codec, tokens, truncated, created: Entry(
        Value(
            encode_vector(np.array(elements, np.float32), codec),
            codec,
            len(elements),
            tokens,
            truncated,
        ),
        created,
        0,
    ),
    st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3),
    st.sampled_from(Codec),
    st.integers(0, 2**31),
    st.booleans(),
    st.integers(0, 2**50),
)
ITEMS = st.lists(
    st.one_of(
        st.tuples(ENTRIES, st.sampled_from(Tier)),
        st.tuples(st.integers(1, 16), st.text(max_size=200)),
    ),
    max_size=5,
)
NOW = 2**50


def read(entry: Entry, wanted: Codec) -> tuple[bytes, float]:
    """Vector and scale as the contract describes them, by the straight way."""
    value = entry.value
    payload = value.payload
    if value.codec is not wanted:
        payload = encode_vector(decode_vector(payload, value.codec), wanted)
    if wanted is Codec.INT8:
        return payload[4:], float(np.frombuffer(payload[:4], "<f4")[0])
    return payload, 0.0


@given(ITEMS, st.sampled_from(Codec), st.text(min_size=1, max_size=70))
def test_the_bytes_are_what_the_generated_code_would_read(
    items: list[tuple[object, object]], encoding: Codec, version: str
) -> None:
    writer = ResponseWriter("minilm", version, 3, encoding)
    expected = embed_pb2.EmbedResponse(model="minilm", dimensions=3, encoding=encoding)
    for first, second in items:
        if isinstance(first, Entry) and isinstance(second, Tier):
            writer.add_vector(first, second)
            vector, scale = read(first, encoding)
            expected.embeddings.add(
                vector=vector,
                scale=scale,
                tier=common_pb2.Tier.Value(f"TIER_{second.name}"),
                model_version=version,
                tokens=first.value.tokens,
                truncated=first.value.truncated,
                age_ms=NOW - first.created_ms,
            )
        else:
            writer.add_error(first, second)
            error = common_pb2.ItemError(code=first, message=second)
            expected.embeddings.add(error=error)
    response = writer.finish()
    assert embed_pb2.EmbedResponse.FromString(response.at(NOW)) == expected


@given(st.lists(ENTRIES, max_size=4), st.integers(0, 2**40))
def test_a_stored_response_ages(entries: list[Entry], later: int) -> None:
    writer = ResponseWriter("m", "v", 3, Codec.FLOAT32)
    for entry in entries:
        writer.add_vector(entry, Tier.HOT)
    response = writer.finish()
    first, second = (
        embed_pb2.EmbedResponse.FromString(response.at(now)) for now in (NOW, NOW + later)
    )
    for one, two in zip(first.embeddings, second.embeddings, strict=True):
        assert two.age_ms - one.age_ms == later
        assert one.vector == two.vector


def test_an_entry_from_a_clock_that_is_ahead_has_age_zero() -> None:
    writer = ResponseWriter("m", "v", 1, Codec.FLOAT32)
    writer.add_vector(Entry(Value(b"\0" * 4, Codec.FLOAT32, 1, 1, False), 2000, 0), Tier.HOT)
    response = embed_pb2.EmbedResponse.FromString(writer.finish().at(1000))
    assert response.embeddings[0].age_ms == 0


@given(st.integers(0, 2**63), st.binary(max_size=300))
def test_fields_are_written_as_protobuf_writes_them(number: int, data: bytes) -> None:
    message = embed_pb2.EmbedStreamRequest(id=number)
    assert (b"\x08" + varint(number) if number else b"") == message.SerializeToString()
    tensor = embed_pb2.Tensor(data=data)
    assert (length_delimited(3, data) if data else b"") == tensor.SerializeToString()
