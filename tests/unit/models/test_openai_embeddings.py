"""Answers to calls of /embeddings, right and wrong."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.openai_embeddings import read_vectors, share_tokens
from sidecar.models.types import ModelError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage"]), inner)
    ),
    max_leaves=12,
)


def item(index: Any, embedding: Any) -> dict[str, Any]:
    return {"index": index, "embedding": embedding}


def encoded(*numbers: float) -> str:
    return base64.b64encode(np.array(numbers, "<f4").tobytes()).decode()


@given(st.permutations(range(5)), st.lists(st.booleans(), min_size=5, max_size=5))
def test_vectors_are_put_in_order_by_their_index(order: list[int], plain: list[bool]) -> None:
    data = [item(i, [i, 0.5] if plain[i] else encoded(i, 0.5)) for i in order]
    vectors = read_vectors({"data": data}, 5)
    assert [list(vector) for vector in vectors] == [[i, 0.5] for i in range(5)]
    assert all(vector.dtype == np.float32 for vector in vectors)


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [1.0, float("nan")],
        [float("inf")],
        [1e300],
        [10**400],
        [[1.0]],
        [None],
        ["x"],
        None,
        7,
        {},
        "",
        "AAAA",
        "not base64!",
        encoded(1, float("nan")),
        encoded(float("-inf")),
    ],
)
def test_what_is_no_vector_is_an_error_of_that_input_alone(wrong: Any) -> None:
    bad, good = read_vectors({"data": [item(0, wrong), item(1, [1.0])]}, 2)
    assert isinstance(bad, ModelError)
    assert list(good) == [1.0]


@pytest.mark.parametrize("index", [None, -1, 3, True, "1", 1.0])
def test_a_vector_without_its_index_is_no_vector_of_any_input(index: Any) -> None:
    data = [item(0, [0.0]), item(index, [1.0]), item(2, [2.0])]
    first, second, third = read_vectors({"data": data}, 3)
    assert isinstance(second, ModelError)
    assert (list(first), list(third)) == ([0.0], [2.0])


def test_two_vectors_for_one_input_are_none() -> None:
    data = [item(0, [0.0]), item(1, [1.0]), item(1, [2.0])]
    first, second, third = read_vectors({"data": data}, 3)
    assert list(first) == [0.0]
    assert isinstance(second, ModelError)
    assert isinstance(third, ModelError)


@pytest.mark.parametrize("places", [[], [0], [0, 1, 2]])
def test_a_wrong_number_of_vectors_fails_all_as_they_may_be_shifted(places: list[int]) -> None:
    with pytest.raises(ModelError, match=f"2 inputs with {len(places)} vectors"):
        read_vectors({"data": [item(place, [1.0]) for place in places]}, 2)


@given(JSON)
def test_any_json_is_vectors_or_a_model_error(answer: Any) -> None:
    assert sum(share_tokens(answer, ["a", "bc"])) >= 0
    try:
        results = read_vectors(answer, 2)
    except ModelError:
        return
    assert len(results) == 2


@given(st.lists(st.text(max_size=50), min_size=1, max_size=20), st.integers(0, 10_000))
def test_the_tokens_of_a_call_are_shared_out_completely(texts: list[str], total: int) -> None:
    shares = share_tokens({"usage": {"prompt_tokens": total}}, texts)
    assert sum(shares) == total
    assert len(shares) == len(texts)
    assert min(shares) >= 0


def test_a_longer_text_has_the_larger_share_of_the_tokens() -> None:
    assert share_tokens({"usage": {"prompt_tokens": 12}}, ["ab", "abcdefgh"]) == [3, 9]


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": 2**40}])
def test_without_a_count_tokens_are_estimated(usage: Any) -> None:
    assert share_tokens({"usage": usage}, ["", "a" * 40]) == [1, 11]
