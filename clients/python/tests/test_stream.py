"""``embed_stream`` with both clients: order, bounds, and what becomes of failures."""

from __future__ import annotations

import contextlib
import itertools
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embercache import (
    AsyncClient,
    DeadlineExceededError,
    Entity,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    PartialFailureError,
    PermissionDeniedError,
    UnavailableError,
    VersionMismatchError,
    _stream,
)
from embercache._batches import Batch
from embercache._stream import WINDOW, StreamWindow
from embercache.v1 import embed_pb2

HANG_GUARD = 30.0


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    for each in threading.enumerate():
        if "embercache-stream" in each.name or "(_run)" in each.name:  # ours; a client's of gRPC
            each.join(HANG_GUARD)
            assert not each.is_alive()


def texts_of(requests):
    return [[item.text for item in request.inputs] for request in requests]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(
    texts=st.lists(st.text(max_size=10), max_size=60),
    batch_size=st.integers(1, 9),
    groups=st.lists(st.integers(1, WINDOW), min_size=1, max_size=60),
)
def test_results_come_in_the_order_of_the_inputs_whatever_the_order_of_the_answers(
    client, sidecar, texts, batch_size, groups
):
    sidecar.group = []
    left = -(-len(texts) // batch_size)
    for size in itertools.cycle(groups):
        sidecar.group.append(min(left, size))
        left -= sidecar.group[-1]
        if not left:
            break
    results = list(client.embed_stream(texts, batch_size=batch_size))
    assert [text for result in results for text in result.inputs] == texts
    assert all(1 <= len(result) <= batch_size for result in results)
    for result in results:
        np.testing.assert_array_equal(
            result.vectors, [sidecar.vector(text) for text in result.inputs]
        )


def test_an_endless_source_is_read_only_as_far_as_the_window(client):
    read = []

    def source():
        for i in itertools.count():
            read.append(str(i))
            yield read[-1]

    results = client.embed_stream(source(), batch_size=4)
    for taken in range(30):
        assert list(next(results).inputs) == read[taken * 4 : taken * 4 + 4]
        assert len(read) <= 4 * (taken + WINDOW)
    results.close()


def test_nothing_is_asked_for_nothing(client, sidecar):
    assert list(client.embed_stream([])) == []
    assert sidecar.requests == []


def test_options_reach_the_sidecar_with_every_batch(client, sidecar):
    list(client.embed_stream(["a", "b", "c"], batch_size=2, model="m", tags=["t"]))
    assert [(each.model, each.cache.tags) for each in sidecar.requests] == [("m", ["t"])] * 2


def test_entities_and_smaller_encodings_work_too(client, sidecar):
    (result,) = client.embed_stream([Entity("doc", "text")], encoding="float16")
    np.testing.assert_allclose(result.vectors, [sidecar.vector("text")], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"inputs": "one text"}, TypeError),
        ({"inputs": ["a"], "batch_size": 0}, InvalidArgumentError),
        ({"inputs": ["a"], "encoding": "float64"}, InvalidArgumentError),
        ({"inputs": ["a"], "colour": "red"}, TypeError),
    ],
)
def test_wrong_arguments_are_refused_at_once(client, arguments, error):
    with pytest.raises(error):
        client.embed_stream(**arguments)


def test_the_call_ends_when_the_caller_takes_no_more_results(client, sidecar):
    results = client.embed_stream(itertools.repeat("text"), batch_size=2)
    next(results)
    results.close()
    assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)


def test_an_error_of_the_source_reaches_the_caller_and_ends_the_call(client, sidecar):
    def source():
        yield from ["a"] * 20
        raise LookupError("the source broke")

    with pytest.raises(LookupError, match="the source broke"):
        list(client.embed_stream(source(), batch_size=1))
    assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)


@pytest.mark.parametrize("end", ["UNAVAILABLE", "OK"])
def test_a_stream_that_ends_too_early_is_opened_anew_for_what_was_not_answered(
    client, sidecar, end
):
    sidecar.stream_faults = {"3": [end]}
    texts = [str(i) for i in range(6)]
    results = list(client.embed_stream(texts, batch_size=1))
    assert [text for result in results for text in result.inputs] == texts
    assert sidecar.streams == 2
    again = texts_of(sidecar.requests)[-3:]
    assert again == [["3"], ["4"], ["5"]]


def test_a_stream_that_makes_progress_may_break_any_number_of_times(client, sidecar):
    texts = [str(i) for i in range(20)]
    sidecar.stream_faults = {text: ["UNAVAILABLE"] for text in texts}
    results = list(client.embed_stream(texts, batch_size=1))
    assert [text for result in results for text in result.inputs] == texts


def test_a_sidecar_that_never_answered_is_given_up_after_five_tries(client, sidecar):
    sidecar.stream_faults = {"a": ["UNAVAILABLE"] * 20}
    with pytest.raises(UnavailableError, match="told to break"):
        list(client.embed_stream(["a"]))
    assert sidecar.streams == 5


def test_a_sidecar_that_has_answered_before_is_given_time_to_come_back(client, sidecar):
    sidecar.stream_faults = {"b": ["UNAVAILABLE"] * 12}
    results = client.embed_stream(["a", "b"], batch_size=1)
    assert [list(result.inputs) for result in results] == [["a"], ["b"]]
    assert sidecar.streams == 13


def test_a_sidecar_that_does_not_come_back_in_that_time_is_given_up(monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(_stream, "time", clock)
    window = StreamWindow("raise", timeout=60)
    asked = [window.add(Batch(["a"], embed_pb2.EmbedRequest())) for _ in range(2)]
    for answered in asked:  # an answer starts the time anew
        window.answer(embed_pb2.EmbedStreamResponse(id=answered.id))
        for seconds in (0, 1, 30, 59):
            clock.now += seconds
            assert window.broken(UnavailableError("gone")) < 1
            clock.now -= seconds
        clock.now += 61
    with pytest.raises(UnavailableError, match="gone"):
        window.broken(UnavailableError("gone"))


def test_an_error_that_will_not_pass_ends_the_stream_after_the_results_before_it(client, sidecar):
    sidecar.stream_faults = {"c": ["PERMISSION_DENIED"] * 9}
    results = client.embed_stream(["a", "b", "c"], batch_size=1)
    assert [list(next(results).inputs), list(next(results).inputs)] == [["a"], ["b"]]
    with pytest.raises(PermissionDeniedError):
        next(results)


def test_an_error_that_will_not_pass_is_not_tried_again():
    with pytest.raises(PermissionDeniedError):
        StreamWindow("raise", timeout=60).broken(PermissionDeniedError("no"))


def test_a_batch_that_was_refused_for_the_moment_is_sent_again(client, sidecar):
    sidecar.batch_faults = {1: ["RESOURCE_EXHAUSTED"] * 4}
    results = list(client.embed_stream(["a", "b", "c"], batch_size=1))
    assert [list(result.inputs) for result in results] == [["a"], ["b"], ["c"]]
    assert texts_of(sidecar.requests).count(["b"]) == 5


def test_a_batch_that_is_refused_again_and_again_raises_when_its_turn_comes(client, sidecar):
    sidecar.batch_faults = {1: ["RESOURCE_EXHAUSTED"] * 5}
    results = client.embed_stream(["a", "b", "c"], batch_size=1)
    assert list(next(results).inputs) == ["a"]
    with pytest.raises(OverloadedError):
        next(results)


def test_a_batch_that_is_wrong_is_not_sent_again(client, sidecar):
    sidecar.batch_faults = {0: ["INVALID_ARGUMENT"]}
    with pytest.raises(InvalidArgumentError, match="told to fail"):
        list(client.embed_stream(["a"]))
    assert len(sidecar.requests) == 1


def test_inputs_that_failed_for_the_moment_are_sent_again_and_only_they(client, sidecar):
    sidecar.item_faults = {"b": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"]}
    (result,) = client.embed_stream(["a", "b", "c"])
    np.testing.assert_array_equal(result.vectors, [sidecar.vector(text) for text in "abc"])
    assert texts_of(sidecar.requests) == [["a", "b", "c"], ["b"], ["b"]]


def test_inputs_that_go_on_failing_keep_their_errors_and_the_others_their_vectors(client, sidecar):
    sidecar.item_faults = {"b": ["UNAVAILABLE"]}
    sidecar.batch_faults = {}
    answer = sidecar._answer

    def then_refuse(message):
        response = answer(message)
        sidecar.batch_faults = {0: ["UNAVAILABLE"] * 9}
        return response

    sidecar._answer = then_refuse
    (result,) = client.embed_stream(["a", "b"], on_error="return")
    assert isinstance(result.errors[1], UnavailableError)
    np.testing.assert_array_equal(result.vectors[0], sidecar.vector("a"))


def test_a_failed_input_raises_an_error_that_holds_its_batch(client, sidecar):
    sidecar.item_faults = {"c": ["INVALID_ARGUMENT"]}
    results = client.embed_stream(["a", "b", "c", "d"], batch_size=2)
    next(results)
    with pytest.raises(PartialFailureError) as caught:
        next(results)
    assert list(caught.value.result.inputs) == ["c", "d"]
    assert list(caught.value.errors) == [0]


def test_failed_inputs_do_not_end_the_job_if_they_are_to_be_returned(client, sidecar):
    sidecar.item_faults = {"b": ["INVALID_ARGUMENT"]}
    results = list(client.embed_stream(["a", "b", "c"], batch_size=1, on_error="return"))
    assert [list(result.errors) for result in results] == [[], [0], []]


def test_a_stream_without_answers_is_given_up_after_the_timeout(client, sidecar):
    sidecar.gate.clear()
    with pytest.raises(DeadlineExceededError, match=r"0\.1 seconds"):
        list(client.embed_stream(["a"], timeout=0.1))


def test_a_model_that_changes_during_the_job_ends_it(client, sidecar):
    def change(response):
        if len(sidecar.requests) > 1:
            response.embeddings[0].model_version = "version-2"

    sidecar.tamper = change
    with pytest.raises(VersionMismatchError, match="from version version-1 to version-2"):
        list(client.embed_stream(["a", "b", "c"], batch_size=1))


@pytest.mark.parametrize("number", [1, 7])
def test_an_answer_to_what_was_not_asked_is_refused(number):
    window = StreamWindow("raise", timeout=60)
    window.add(Batch(["a"], embed_pb2.EmbedRequest()))
    with pytest.raises(InternalError, match=f"request {number}, which is not open"):
        window.answer(embed_pb2.EmbedStreamResponse(id=number))


async def test_the_source_of_the_asyncio_client_may_be_asynchronous(sidecar):
    async def source():
        for i in range(5):
            yield str(i)

    async with AsyncClient(sidecar.address) as client:
        seen = [list(result.inputs) async for result in client.embed_stream(source(), batch_size=2)]
    assert seen == [["0", "1"], ["2", "3"], ["4"]]


async def test_leaving_an_asynchronous_loop_early_ends_the_call(sidecar):
    async with AsyncClient(sidecar.address) as client:
        results = client.embed_stream(itertools.repeat("text"), batch_size=2)
        async with contextlib.aclosing(results):
            async for _ in results:
                break
    assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)
