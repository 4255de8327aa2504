"""``embed`` with both clients: order, options, failures of single inputs, limits."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embercache import (
    Client,
    Entity,
    InternalError,
    InvalidArgumentError,
    NotCachedError,
    OverloadedError,
    PartialFailureError,
    UnavailableError,
    _backoff,
    _batches,
    _embed_requests,
)


def test_vectors_come_in_the_order_of_the_texts(client, sidecar):
    texts = ["one", "two", "three words here", "two"]
    result = client.embed(texts)
    np.testing.assert_array_equal(result.vectors, [sidecar.vector(text) for text in texts])
    assert result.vectors.dtype == np.float32
    assert list(result.inputs) == texts


def test_a_result_tells_where_each_vector_came_from(client):
    result = client.embed(["one two", "x" * 200])
    assert result.tiers == ["hot", "hot"]
    assert result.ages == [1.5, 1.5]
    assert result.tokens == [2, 1]
    assert result.truncated == [False, True]
    assert (result.model, result.model_version) == ("fake", "version-1")
    assert result.errors == {}


def test_texts_entities_and_tensors_may_be_mixed(client, sidecar):
    tensor = np.arange(3, dtype=np.float32)
    result = client.embed(["text", Entity("doc", "named"), tensor])
    expected = [sidecar.vector("text"), sidecar.vector("named")]
    np.testing.assert_array_equal(
        result.vectors, [*expected, sidecar.vector(tensor.tobytes().hex())]
    )


def test_an_array_of_tensors_is_a_batch_of_its_rows(client, sidecar):
    client.embed(np.zeros((3, 2, 2), np.float32))
    assert [list(each.tensor.shape) for each in sidecar.requests[0].inputs] == [[2, 2]] * 3


@pytest.mark.parametrize(("encoding", "error"), [("float16", 1e-3), ("int8", 1e-2)])
def test_smaller_encodings_give_float32_vectors_close_to_the_exact_ones(
    client, sidecar, encoding, error
):
    result = client.embed(["one", "two"], encoding=encoding)
    assert result.vectors.dtype == np.float32
    assert result.raw.dtype == encoding
    np.testing.assert_allclose(
        result.vectors, [sidecar.vector("one"), sidecar.vector("two")], atol=error
    )


def test_options_reach_the_sidecar(client, sidecar):
    client.embed(["one"], model="m", namespace="n", input_type="query", tags=["a"], ttl=60)
    expected = _embed_requests.options(
        model="m", namespace="n", input_type="query", tags=["a"], ttl=60
    )
    expected.inputs.add(text="one")
    assert sidecar.requests == [expected]


def test_a_single_text_in_place_of_a_list_is_refused(client, sidecar):
    with pytest.raises(TypeError, match=r"\[text\]"):
        client.embed("a text")
    assert sidecar.requests == []


def test_no_inputs_are_refused(client, sidecar):
    with pytest.raises(InvalidArgumentError, match="at least one"):
        client.embed([])
    assert sidecar.requests == []


def test_an_unknown_option_is_refused(client):
    with pytest.raises(TypeError, match="colour"):
        client.embed(["one"], colour="red")


def test_inputs_may_come_from_a_generator(client, sidecar):
    result = client.embed(text for text in ["one", "two"])
    np.testing.assert_array_equal(result.vectors[1], sidecar.vector("two"))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25
)
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=40), limit=st.integers(20, 60))
def test_inputs_that_are_too_many_for_one_call_come_back_in_order(client, sidecar, texts, limit):
    sidecar.requests.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batches, "MAX_BATCH_ITEMS", 7)
        patch.setattr(_batches, "MAX_BATCH_BYTES", limit)
        result = client.embed(texts)
    np.testing.assert_array_equal(result.vectors, [sidecar.vector(text) for text in texts])
    assert [item.text for request in sidecar.requests for item in request.inputs] == texts
    assert all(len(request.inputs) <= 7 for request in sidecar.requests)


def test_more_inputs_than_the_sidecar_takes_in_one_call_are_no_concern_of_the_caller(
    client, sidecar
):
    result = client.embed([f"text {i}" for i in range(10_050)])
    assert result.vectors.shape == (10_050, 8)
    np.testing.assert_array_equal(result.vectors[10_049], sidecar.vector("text 10049"))


def test_a_failed_input_raises_an_error_that_holds_all_that_was_answered(client, sidecar):
    sidecar.item_faults = {"bad": ["INVALID_ARGUMENT"], "gone": ["NOT_FOUND"]}
    with pytest.raises(PartialFailureError, match=r"2 of 4 .*input 1: told to fail") as caught:
        client.embed(["one", "bad", "gone", "two"])
    result = caught.value.result
    np.testing.assert_array_equal(result.vectors[3], sidecar.vector("two"))
    assert np.isnan(result.vectors[1]).all()
    assert {i: type(error) for i, error in caught.value.errors.items()} == {
        1: InvalidArgumentError,
        2: NotCachedError,
    }
    assert caught.value.errors[2].index == 2
    assert caught.value.__cause__ is caught.value.errors[1]


def test_errors_of_single_inputs_are_returned_on_request(client, sidecar):
    sidecar.item_faults = {"bad": ["INVALID_ARGUMENT"]}
    result = client.embed(["bad", "one"], on_error="return")
    assert list(result.errors) == [0]
    np.testing.assert_array_equal(result.vectors[1], sidecar.vector("one"))


def test_an_unknown_way_to_handle_errors_is_refused(client):
    with pytest.raises(InvalidArgumentError, match="on_error"):
        client.embed(["one"], on_error="ignore")


def test_inputs_that_failed_for_the_moment_are_asked_for_again_and_only_they(client, sidecar):
    sidecar.item_faults = {"two": ["RESOURCE_EXHAUSTED"], "four": ["UNAVAILABLE", "UNAVAILABLE"]}
    texts = ["one", "two", "three", "four"]
    result = client.embed(texts, tags=["kept"])
    np.testing.assert_array_equal(result.vectors, [sidecar.vector(text) for text in texts])
    asked = [[item.text for item in request.inputs] for request in sidecar.requests]
    assert asked == [texts, ["two", "four"], ["four"]]
    assert all(request.cache.tags == ["kept"] for request in sidecar.requests)


def test_inputs_that_go_on_failing_keep_their_own_errors(client, sidecar):
    sidecar.item_faults = {"two": ["RESOURCE_EXHAUSTED"]}
    original = sidecar._respond

    def only_once(request):
        sidecar.call_faults = ["RESOURCE_EXHAUSTED"] * 5
        return original(request)

    sidecar._respond = only_once
    result = client.embed(["one", "two"], on_error="return")
    assert isinstance(result.errors[1], OverloadedError)
    np.testing.assert_array_equal(result.vectors[0], sidecar.vector("one"))
    assert len(sidecar.requests) == 6


def test_inputs_are_not_asked_for_again_when_the_deadline_would_come_first(
    client, sidecar, monkeypatch
):
    monkeypatch.setattr(_backoff, "delay", lambda failures: 1000.0)
    sidecar.item_faults = {"two": ["UNAVAILABLE"]}
    result = client.embed(["one", "two"], on_error="return", timeout=30)
    assert isinstance(result.errors[1], UnavailableError)
    assert len(sidecar.requests) == 1


def test_an_answer_for_fewer_inputs_than_asked_is_refused(client, sidecar):
    sidecar.tamper = lambda response: response.embeddings.pop()
    with pytest.raises(InternalError, match="answered 1 of 2"):
        client.embed(["one", "two"])


def test_one_blocking_client_serves_many_threads(sidecar):
    wrong = []

    def work(number):
        texts = [f"{number}-{i}" for i in range(5)]
        for _ in range(10):
            expected = [sidecar.vector(text) for text in texts]
            if not np.array_equal(client.embed(texts).vectors, expected):
                wrong.append(number)

    with Client(sidecar.address) as client:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(sidecar.requests) == 80
