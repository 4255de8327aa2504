"""Answers are read exactly, whatever their encoding, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from embercache import InternalError, OverloadedError, VersionMismatchError
from embercache._answers import Answer
from embercache._embed_requests import EMBED
from embercache.results import decode
from embercache.v1 import common_pb2, embed_pb2

DTYPES = {
    embed_pb2.ENCODING_UNSPECIFIED: np.dtype("<f4"),
    embed_pb2.ENCODING_FLOAT32: np.dtype("<f4"),
    embed_pb2.ENCODING_FLOAT16: np.dtype("<f2"),
    embed_pb2.ENCODING_INT8: np.dtype("i1"),
}
SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=12)
OVERLOADED = common_pb2.ItemError(code=8, message="queue is full")


def response(matrix, encoding=embed_pb2.ENCODING_FLOAT32, scales=None, version="v"):
    """The answer that carries the rows of the matrix."""
    return embed_pb2.EmbedResponse(
        embeddings=[
            embed_pb2.Embedding(
                vector=row.astype(DTYPES[encoding]).tobytes(),
                scale=0.0 if scales is None else scales[i],
                model_version=version,
            )
            for i, row in enumerate(matrix)
        ],
        model="m",
        dimensions=matrix.shape[1],
        encoding=encoding,
    )


def decoded(*responses):
    """The result of answers to as many inputs as they have items."""
    inputs = [str(i) for i in range(sum(len(each.embeddings) for each in responses))]
    return decode(inputs, [answer(each) for each in responses])


def answer(response):
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input()] * len(response.embeddings))
    return Answer(EMBED, request, response)


@st.composite
def encoded(draw):
    """An encoding and a matrix of its elements, any bits allowed."""
    encoding = draw(st.sampled_from(sorted(DTYPES)))
    return encoding, draw(arrays(DTYPES[encoding], SHAPES))


@given(encoded())
def test_raw_is_bit_for_bit_what_was_sent(sent):
    encoding, matrix = sent
    result = decoded(response(matrix, encoding))
    assert result.raw.tobytes() == matrix.tobytes()
    assert (result.raw.shape, result.raw.dtype) == (matrix.shape, matrix.dtype)


@given(arrays(np.dtype("<f4"), SHAPES))
def test_float32_vectors_are_bit_for_bit_what_was_sent(matrix):
    assert decoded(response(matrix)).vectors.tobytes() == matrix.tobytes()


@given(arrays(np.dtype("<f2"), SHAPES))
def test_float16_vectors_are_widened_without_loss(matrix):
    vectors = decoded(response(matrix, embed_pb2.ENCODING_FLOAT16)).vectors
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, matrix.astype(np.float32))


@given(st.data())
def test_int8_vectors_are_bytes_times_the_scale_of_their_own_row(data):
    matrix = data.draw(arrays(np.int8, SHAPES))
    scales = data.draw(arrays(np.float32, len(matrix), elements=st.floats(0, 1, width=32)))
    result = decoded(response(matrix, embed_pb2.ENCODING_INT8, scales))
    assert result.vectors.dtype == np.float32
    for row, bytes_of_row, scale in zip(result.vectors, matrix, scales, strict=True):
        np.testing.assert_array_equal(row, bytes_of_row.astype(np.float32) * scale)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_several_answers_are_joined_in_their_order(counts):
    matrix = np.arange(sum(counts) * 3, dtype=np.float32).reshape(-1, 3)
    parts = np.split(matrix, np.cumsum(counts)[:-1])
    result = decoded(*(response(part) for part in parts))
    np.testing.assert_array_equal(result.vectors, matrix)
    assert len(result) == len(matrix)


@pytest.mark.parametrize("encoding", sorted(DTYPES))
def test_the_row_of_a_failed_input_is_nan_and_no_other(encoding):
    sent = response(np.ones((3, 4)), encoding, scales=[0.5, 0.5, 0.5])
    sent.embeddings[1].CopyFrom(embed_pb2.Embedding(error=OVERLOADED))
    result = decoded(sent)
    np.testing.assert_array_equal(np.isnan(result.vectors).all(axis=1), [False, True, False])
    assert not np.isnan(result.vectors[[0, 2]]).any()
    error = result.errors[1]
    assert isinstance(error, OverloadedError)
    assert (error.index, error.message) == (1, "queue is full")


def test_the_place_of_a_failed_input_counts_from_the_first_of_several_answers():
    second = response(np.ones((2, 4)))
    second.embeddings[1].CopyFrom(embed_pb2.Embedding(error=OVERLOADED))
    result = decoded(response(np.ones((3, 4))), second)
    assert {index: error.index for index, error in result.errors.items()} == {4: 4}
    np.testing.assert_array_equal(np.isnan(result.vectors[:, 0]), [False] * 4 + [True])


def test_when_all_inputs_failed_there_are_rows_but_no_dimensions():
    sent = embed_pb2.EmbedResponse(embeddings=[embed_pb2.Embedding(error=OVERLOADED)])
    result = decoded(sent)
    assert result.vectors.shape == (1, 0)
    assert result.model_version == ""


def test_an_answer_without_any_vector_does_not_hide_the_dimensions_of_the_others():
    failed = embed_pb2.EmbedResponse(embeddings=[embed_pb2.Embedding(error=OVERLOADED)])
    assert decoded(failed, response(np.ones((2, 4)))).vectors.shape == (3, 4)


def test_vectors_of_wrong_lengths_are_refused_even_if_their_sum_is_right():
    sent = response(np.ones((2, 4)))
    sent.embeddings[0].vector += sent.embeddings[1].vector[:4]
    sent.embeddings[1].vector = sent.embeddings[1].vector[:-4]
    with pytest.raises(InternalError, match="4 dimensions"):
        decoded(sent)


def test_an_empty_vector_without_an_error_is_refused():
    sent = embed_pb2.EmbedResponse(embeddings=[embed_pb2.Embedding(model_version="v")])
    with pytest.raises(InternalError):
        decoded(sent)


@pytest.mark.parametrize(
    "second",
    [
        response(np.ones((1, 5))),
        response(np.ones((1, 4)), embed_pb2.ENCODING_FLOAT16),
    ],
)
def test_answers_of_different_layouts_are_refused(second):
    with pytest.raises(InternalError, match="layouts"):
        decoded(response(np.ones((1, 4))), second)


def test_an_encoding_from_the_future_is_refused():
    sent = response(np.ones((1, 4)))
    sent.encoding = 99
    with pytest.raises(InternalError, match="layouts"):
        decoded(sent)


def test_vectors_of_two_model_versions_are_never_mixed():
    old, new = response(np.ones((1, 4)), version="a"), response(np.ones((1, 4)), version="b")
    with pytest.raises(VersionMismatchError, match="from version a to b"):
        decoded(old, new)


def test_a_tier_from_the_future_is_unspecified():
    sent = response(np.ones((1, 4)))
    sent.embeddings[0].tier = 99
    assert decoded(sent).tiers == ["unspecified"]


def test_a_result_is_an_array_to_numpy():
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    result = decoded(response(matrix))
    np.testing.assert_array_equal(np.asarray(result), matrix)
    np.testing.assert_array_equal(np.eye(2, dtype=np.float32) @ result, matrix)
    assert np.asarray(result, dtype=np.float64).dtype == np.float64


def test_asarray_does_not_copy_and_array_does():
    result = decoded(response(np.ones((2, 3))))
    assert np.shares_memory(np.asarray(result), result.vectors)
    assert not np.shares_memory(np.array(result), result.vectors)
    with pytest.raises(ValueError, match="copy"):
        result.__array__(np.float64, copy=False)


def test_vectors_can_be_changed_in_place():
    result = decoded(response(np.ones((2, 3))))
    result.vectors[:] /= 2
    assert (result.vectors == 0.5).all()


def test_the_text_of_users_is_not_in_the_representation():
    result = decode(["a secret"], [answer(response(np.ones((1, 3))))])
    assert "secret" not in repr(result)
    assert "1 x 3" in repr(result)
