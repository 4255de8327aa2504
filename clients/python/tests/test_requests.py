"""What is given to the client is sent as it is, or refused with a reason."""

from __future__ import annotations

import itertools
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes

from embercache import Entity, InvalidArgumentError, _batches, _embed_requests
from embercache._batches import Batcher, batches
from embercache._embed_requests import EMBED, options
from embercache.v1 import common_pb2, embed_pb2


def messages(*inputs):
    """The messages of the inputs, which must fit into one batch."""
    (batch,) = batches(inputs, Batcher(EMBED, options(), len(inputs)))
    return batch.request.inputs


@given(st.lists(st.integers(0, 40)), st.integers(1, 9))
def test_batches_hold_all_inputs_in_order_and_keep_both_limits(sizes, max_items):
    inputs = [chr(97 + i % 26) * size for i, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batches, "MAX_BATCH_BYTES", 50)
        cut = list(batches(inputs, Batcher(EMBED, options(model="m"), max_items)))
    assert [text for batch in cut for text in batch.inputs] == inputs
    assert [item.text for batch in cut for item in batch.request.inputs] == inputs
    sizes = [[item.ByteSize() for item in batch.request.inputs] for batch in cut]
    for batch, of_items in zip(cut, sizes, strict=True):
        assert 1 <= len(of_items) <= max_items
        assert sum(of_items) <= 50
        assert batch.request.model == "m"
    for of_items, following in itertools.pairwise(sizes):  # none is cut without need
        assert len(of_items) == max_items or sum(of_items) + following[0] > 50


def test_an_input_above_the_limit_travels_alone(monkeypatch):
    monkeypatch.setattr(_batches, "MAX_BATCH_BYTES", 10)
    cut = list(batches(["a", "b" * 100, "c"], Batcher(EMBED, options(), 8)))
    assert [batch.inputs for batch in cut] == [["a"], ["b" * 100], ["c"]]


@pytest.mark.parametrize("size", [0, 1025, -1])
def test_a_batch_size_out_of_range_is_refused(size):
    with pytest.raises(InvalidArgumentError, match="1 to 1024"):
        Batcher(EMBED, options(), size)


@given(st.text())
def test_a_text_is_sent_as_it_is(text):
    (message,) = messages(text)
    assert message.WhichOneof("input") == "text"
    assert message.text == text


def test_an_entity_is_sent_with_its_name_and_chunk():
    (message,) = messages(Entity("doc-1", "a text", chunk_id="2"))
    assert message.entity == embed_pb2.Entity(id="doc-1", chunk_id="2", text="a text")


@given(arrays(st.sampled_from(["f4", "f2", "i1", "u1", "i4", "i8"]), array_shapes()))
def test_a_tensor_is_sent_in_c_order_and_little_endian_whatever_its_layout(array):
    for layout in (array, np.asfortranarray(array), array.astype(array.dtype.newbyteorder(">"))):
        (message,) = messages(layout)
        assert list(message.tensor.shape) == list(array.shape)
        assert message.tensor.data == array.astype(array.dtype.newbyteorder("<")).tobytes()
        name = embed_pb2.DType.Name(message.tensor.dtype)
        assert name == f"DTYPE_{array.dtype.name.upper()}"


@given(scalar_dtypes().filter(lambda dtype: dtype.name not in _embed_requests._DTYPES))
def test_a_tensor_of_another_element_type_is_refused(dtype):
    with pytest.raises(InvalidArgumentError, match="convert it") as caught:
        messages("a text", np.zeros(2, dtype))
    assert caught.value.index == 1


@pytest.mark.parametrize("item", [None, 1.5, b"bytes", ["nested"]])
def test_what_is_no_input_is_refused_with_its_place(item):
    with pytest.raises(TypeError, match="input 1 is a"):
        messages("a text", item)


@pytest.mark.parametrize("item", ["secret \ud800", Entity("doc", "secret \ud800")])
def test_a_lone_surrogate_is_refused_without_quoting_the_text(item):
    with pytest.raises(InvalidArgumentError, match="surrogate") as caught:
        messages("a text", item)
    assert caught.value.index == 1
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__  # which quotes the text


def test_without_options_the_request_is_empty_but_for_its_defaults():
    assert options() == embed_pb2.EmbedRequest(
        encoding=embed_pb2.ENCODING_FLOAT32, truncation=embed_pb2.TRUNCATION_END
    )


def test_every_option_is_sent():
    request = options(
        model="m",
        model_version="v",
        namespace="n",
        input_type="query",
        encoding="int8",
        truncation="error",
        mode="only_if_cached",
        ttl=1.5,
        tags=["a", "b"],
    )
    assert {each.name for each, _ in request.ListFields()} == {
        each.name for each in request.DESCRIPTOR.fields if each.name != "inputs"
    }
    assert request.cache.mode == common_pb2.CACHE_MODE_ONLY_IF_CACHED
    assert request.cache.ttl.ToTimedelta() == timedelta(seconds=1.5)
    assert list(request.cache.tags) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "enum", "prefix"),
    [
        ("input_type", embed_pb2.InputType, "INPUT_TYPE_"),
        ("encoding", embed_pb2.Encoding, "ENCODING_"),
        ("truncation", embed_pb2.Truncation, "TRUNCATION_"),
        ("mode", common_pb2.CacheMode, "CACHE_MODE_"),
    ],
)
def test_every_choice_of_the_contract_has_a_name(name, enum, prefix):
    for value, number in enum.items():
        choice = value.removeprefix(prefix).lower()
        if choice != "unspecified":
            request = options(**{name: choice})
            holder = request.cache if name == "mode" else request
            # The default mode is not written: absent means the same.
            sent = getattr(holder, name) or enum.Value(f"{prefix}DEFAULT")
            assert sent == number


@pytest.mark.parametrize("name", ["input_type", "encoding", "truncation", "mode"])
def test_an_unknown_choice_is_refused_and_the_known_ones_are_listed(name):
    with pytest.raises(InvalidArgumentError, match=f"{name} is 'wrong'; it must be one of"):
        options(**{name: "wrong"})


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=3650)))
def test_a_ttl_may_be_seconds_or_a_timedelta(ttl):
    sent = options(ttl=ttl).cache.ttl.ToTimedelta()
    assert abs(sent - ttl) <= timedelta(microseconds=1)
    assert abs(options(ttl=ttl.total_seconds()).cache.ttl.ToTimedelta() - ttl) <= timedelta(
        microseconds=1
    )


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan"), timedelta(0)])
def test_a_ttl_that_is_not_positive_is_refused(ttl):
    with pytest.raises(InvalidArgumentError, match="ttl"):
        options(ttl=ttl)


def test_a_single_tag_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"\[tag\]"):
        options(tags="tag")
