"""A model that embeds behind an OpenAI-compatible service, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.models.openai_client import OpenAIClient
from sidecar.models.openai_embedder import (
    CALLS_AT_ONCE,
    CHARACTERS_A_CALL,
    INPUTS_A_CALL,
    OpenAIEmbedder,
)
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_target import parse_target
from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HANG_GUARD = 20.0
PROBE = ["a"]


@pytest.fixture
async def connect(openai_server: Any) -> AsyncIterator[Callable[..., Awaitable[OpenAIEmbedder]]]:
    """Makes models of the service."""
    made: list[tuple[OpenAIEmbedder, OpenAIClient]] = []

    async def make(
        theirs: str = "theirs", *, queue_inputs: int = 1000, retries: int = 2
    ) -> OpenAIEmbedder:
        target = parse_target(openai_server.target, "encoder.target", has_key=False, insecure=False)
        client = OpenAIClient(target, OpenAIKey(""), timeout=HANG_GUARD, retries=retries)
        made.append((OpenAIEmbedder("mine", theirs, client, queue_inputs=queue_inputs), client))
        await made[-1][0].start()
        return made[-1][0]

    yield make
    for embedder, client in made:
        await embedder.close()
        await client.close()


async def outcomes(futures: list[asyncio.Future[Embedded]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), HANG_GUARD)


async def lengths(futures: list[asyncio.Future[Embedded]]) -> list[float]:
    """The first numbers of the vectors, which are the lengths of the texts."""
    return [embedded.vector[0] for embedded in await outcomes(futures)]


def batches(server: Any) -> list[list[str]]:
    """The inputs of the calls, less the first vector that is asked for."""
    return [body["input"] for body in server.bodies("/embeddings") if body["input"] != PROBE]


# What is asked, and what comes back


async def test_vectors_come_in_the_order_of_the_texts(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    found = await outcomes(embedder.submit(["three", "", "one"]))
    expected = np.array([[5, 2, 1, -1], [0, 0, 1, -1], [3, 1, 1, -1]], np.float32)
    assert np.array_equal([embedded.vector for embedded in found], expected)
    assert all(embedded.vector.dtype == np.float32 for embedded in found)
    assert (embedder.counters.computed, embedder.queued) == (3, 0)


async def test_the_service_is_asked_for_its_name_of_the_model_and_for_base64(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect("org/their-model")
    await outcomes(embedder.submit(["text"]))
    body = {"model": "org/their-model", "input": ["text"], "encoding_format": "base64"}
    assert openai_server.bodies("/embeddings")[-1] == body


async def test_a_service_that_knows_no_base64_may_send_numbers(
    openai_server: Any, connect: Any
) -> None:
    openai_server.knows_base64 = False
    embedder = await connect()
    assert await lengths(embedder.submit(["three", "one"])) == [5, 3]


async def test_the_model_is_described_after_one_vector(openai_server: Any, connect: Any) -> None:
    info = (await connect()).info
    assert (info.name, info.dimensions) == ("mine", 4)
    assert (info.accepts_text, info.accepts_tensor) == (True, False)
    assert f"openai+http://{info.runs_on}/v1" == openai_server.target
    assert openai_server.bodies("/embeddings")[0]["input"] == PROBE


async def test_another_model_or_length_of_vector_is_another_version(
    openai_server: Any, connect: Any
) -> None:
    first, same, other = await connect(), await connect(), await connect("other")
    openai_server.embed = lambda text: [1.0, 2.0]
    shorter = await connect()
    assert first.info.version == same.info.version
    assert len({first.info.version, other.info.version, shorter.info.version}) == 3


async def test_tokens_are_those_that_the_service_counted(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    found = await outcomes(embedder.submit(["one two three", "four five six"]))
    assert [embedded.tokens for embedded in found] == [3, 3]
    assert embedder.counters.tokens == 6


async def test_tensors_are_not_taken(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    tensor, text = await outcomes(embedder.submit([np.zeros(3, np.float32), "one"]))
    assert isinstance(tensor, InputRejectedError)
    assert text.vector[0] == 3


# Calls


async def test_callers_that_come_together_share_a_call(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    futures = [embedder.submit([text])[0] for text in ("one", "three", "eleven")]
    assert await lengths(futures) == [3, 5, 6]
    assert batches(openai_server) == [["one", "three", "eleven"]]
    assert embedder.counters.batches == 1


async def test_calls_are_bounded_in_inputs_and_in_characters(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    long = "x" * (CHARACTERS_A_CALL // 2)
    texts = [f"text {number}" for number in range(INPUTS_A_CALL + 1)] + [long] * 3 + [3 * long]
    assert await lengths(embedder.submit(texts)) == [len(text) for text in texts]
    sizes = [(len(batch), sum(map(len, batch))) for batch in batches(openai_server)]
    assert sorted(count for count, _ in sizes) == [1, 2, 2, INPUTS_A_CALL]
    assert [size for count, size in sizes if count > 1 and size > CHARACTERS_A_CALL] == []


async def test_an_empty_text_spoils_no_others(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    openai_server.refuses = lambda text: not text
    found = await outcomes(embedder.submit(["one", "", "three", "", ""]))
    refused = [isinstance(outcome, InputRejectedError) for outcome in found]
    assert refused == [False, True, False, True, True]
    assert sorted(batches(openai_server)) == [[""], [""], [""], ["one"], ["three"]]


async def test_few_calls_are_under_way_at_once(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    embedder = await connect()
    openai_server.hold_after = 0
    count = INPUTS_A_CALL * (CALLS_AT_ONCE + 1)
    futures = embedder.submit(["text"] * count)
    await eventually(lambda: len(batches(openai_server)) == CALLS_AT_ONCE)
    assert embedder.queued == INPUTS_A_CALL
    openai_server.release.set()
    assert await lengths(futures) == [4] * count
    assert len(batches(openai_server)) == CALLS_AT_ONCE + 1


# The queue


async def test_inputs_that_wait_are_bounded(openai_server: Any, connect: Any) -> None:
    embedder = await connect(queue_inputs=3)
    futures = embedder.submit(["one", "two"])
    with pytest.raises(QueueFullError, match=r"raise encoder\.queue_inputs"):
        embedder.submit(["three", "four"])
    assert (embedder.queued, embedder.counters.shed) == (2, 2)
    assert await lengths(futures) == [3, 3]


async def test_inputs_that_nobody_wants_any_more_make_room(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect(queue_inputs=3)
    futures = embedder.submit(["one", "two", "three"])
    futures[0].cancel()
    futures[2].cancel()
    futures += embedder.submit(["four", "five"])
    assert await lengths([futures[1], *futures[3:]]) == [3, 4, 4]
    assert batches(openai_server) == [["two", "four", "five"]]
    assert embedder.counters.abandoned == 2


async def test_inputs_that_nobody_wants_any_more_are_not_asked_for(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    gone, wanted = embedder.submit(["gone", "wanted"])
    gone.cancel()
    assert await lengths([wanted]) == [6]
    assert batches(openai_server) == [["wanted"]]
    assert embedder.counters.abandoned == 1


async def test_a_call_is_ended_when_nobody_wants_any_of_it(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    embedder = await connect()
    openai_server.hold_after = 0
    first, second = embedder.submit(["one", "two"])
    await asyncio.wait_for(openai_server.held.wait(), HANG_GUARD)
    first.cancel()
    await asyncio.sleep(0)
    assert openai_server.disconnects == 0
    second.cancel()
    await eventually(lambda: openai_server.disconnects == 1)
    assert embedder.counters.abandoned == 2


async def test_close_fails_what_waits_and_what_is_under_way(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.hold_after = 0
    futures = embedder.submit(["text"])
    await asyncio.wait_for(openai_server.held.wait(), HANG_GUARD)
    futures += embedder.submit(["later"])
    await embedder.close()
    found = await outcomes(futures)
    assert [type(outcome) for outcome in found] == [ModelUnavailableError] * 2
    with pytest.raises(ModelUnavailableError):
        embedder.submit(["too late"])


# Failures


async def test_an_input_that_is_refused_fails_alone(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    openai_server.refuses = lambda text: text.startswith("bad")
    texts = ["one", "bad secret", "two", "three", "bad again", "four", "five"]
    found = await outcomes(embedder.submit(texts))
    for text, outcome in zip(texts, found, strict=True):
        if text.startswith("bad"):
            assert isinstance(outcome, InputRejectedError)
            assert "status 400 (invalid_input)" in str(outcome)
        else:
            assert outcome.vector[0] == len(text)
    assert embedder.counters.computed == 5


@pytest.mark.parametrize("places", [(0,), (77,), (127,), (16, 17, 90)])
async def test_inputs_that_are_refused_cost_few_calls(
    places: tuple[int, ...], openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.refuses = lambda text: text.startswith("bad")
    texts = [f"bad {n}" if n in places else f"good {n}" for n in range(INPUTS_A_CALL)]
    found = await outcomes(embedder.submit(texts))
    refused = [n for n, outcome in enumerate(found) if isinstance(outcome, InputRejectedError)]
    assert refused == list(places)
    levels = INPUTS_A_CALL.bit_length() - 1
    assert len(batches(openai_server)) <= 3 + 2 * levels * len(places)


async def test_when_every_input_is_refused_it_takes_few_calls_to_tell(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.refuses = lambda text: True
    found = await outcomes(embedder.submit([f"text {n}" for n in range(INPUTS_A_CALL)]))
    assert all(isinstance(outcome, InputRejectedError) for outcome in found)
    assert len(batches(openai_server)) < 10


async def test_a_batch_that_is_too_large_is_parted(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    texts = [f"text {n}" for n in range(INPUTS_A_CALL)]
    openai_server.fail(413, times=1)
    assert await lengths(embedder.submit(texts)) == [len(text) for text in texts]
    assert len(batches(openai_server)) == 4


@pytest.mark.parametrize(
    ("param", "calls"), [("model", 1), ("encoding_format", 1), ("input", 4), ("input.1", 4)]
)
async def test_inputs_are_only_parted_if_it_may_be_them_that_the_service_minds(
    param: str, calls: int, openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.fail(400, code="invalid", param=param)
    found = await outcomes(embedder.submit(["one", "two", "three", "four", "five"]))
    assert any(isinstance(outcome, InputRejectedError) for outcome in found) == (calls == 1)
    assert len(batches(openai_server)) == calls


async def test_the_words_of_the_service_which_may_quote_the_input_are_not_passed_on(
    openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.fail(400, message="cannot read: private", code="no: private", param="in put")
    (error,) = await outcomes(embedder.submit(["private"]))
    assert isinstance(error, InputRejectedError)
    assert "private" not in str(error)
    assert "400" in str(error)


@pytest.mark.parametrize(
    ("status", "kind", "advice"),
    [
        (401, ModelError, "openai.key"),
        (403, ModelError, "openai.key"),
        (404, ModelError, "theirs"),
        (413, InputRejectedError, "does not take this input"),
        (418, ModelError, "418"),
        (422, InputRejectedError, "does not take this input"),
        (429, QueueFullError, "try again later"),
        (500, ModelUnavailableError, "try again later"),
        (503, ModelUnavailableError, "try again later"),
    ],
)
async def test_what_a_status_means(
    status: int, kind: type[ModelError], advice: str, openai_server: Any, connect: Any
) -> None:
    embedder = await connect(retries=0)
    openai_server.fail(status, code="its_code", message="secret")
    (error,) = await outcomes(embedder.submit(["text"]))
    assert isinstance(error, kind)
    if kind is ModelError:
        assert type(error) is ModelError
    assert f"status {status} (its_code)" in str(error)
    assert advice in str(error)
    assert embedder.counters.shed == (status == 429)
    assert await lengths(embedder.submit(["text"])) == [4]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_call_that_may_succeed_later_is_repeated(
    status: int, openai_server: Any, connect: Any
) -> None:
    embedder = await connect(retries=2)
    openai_server.fail(status, times=2)
    assert await lengths(embedder.submit(["text"])) == [4]
    assert len(batches(openai_server)) == 3


async def test_the_pause_before_a_repetition_is_the_one_that_the_service_asks_for(
    openai_server: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = await connect(retries=1)
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("sidecar.models.openai_repeats.sleep", pause)
    openai_server.failures.clear()
    openai_server.fail(429, headers={"Retry-After-Ms": "", "Retry-After": "1.5"})
    assert await lengths(embedder.submit(["text"])) == [4]
    assert pauses == [1.5]


async def test_a_redirection_is_not_followed(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    openai_server.fail(307, headers={"Location": "/v1/embeddings"})
    (error,) = await outcomes(embedder.submit(["text"]))
    assert type(error) is ModelError
    assert "leads" in str(error)
    assert len(batches(openai_server)) == 1


async def test_disordered_vectors_are_put_in_order(openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    openai_server.change_data = lambda data: data[::-1]
    assert await lengths(embedder.submit(["a1", "abc", "abcd"])) == [2, 3, 4]


@pytest.mark.parametrize("change", [lambda data: data[1:], lambda data: [*data, data[0]]])
async def test_a_wrong_number_of_vectors_fails_the_call(
    change: Any, openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    openai_server.change_data = change
    found = await outcomes(embedder.submit(["one", "two"]))
    assert [type(outcome) for outcome in found] == [ModelError] * 2


@pytest.mark.parametrize(
    "vector", [[float("nan"), 0, 0, 0], [float("inf"), 0, 0, 0], [1.0, 2.0, 3.0], []]
)
async def test_a_vector_that_is_not_finite_or_of_another_length_fails_alone(
    vector: list[float], openai_server: Any, connect: Any
) -> None:
    embedder = await connect()
    embed = openai_server.embed
    openai_server.embed = lambda text: vector if text == "odd" else embed(text)
    odd, good = await outcomes(embedder.submit(["odd", "good"]))
    assert type(odd) is ModelError
    assert good.vector[0] == 4


@pytest.mark.parametrize("garbage", ["{not json", "7", "null", '{"data": 7}'])
async def test_garbage_is_an_error(garbage: str, openai_server: Any, connect: Any) -> None:
    embedder = await connect()
    openai_server.garbage = garbage
    (error,) = await outcomes(embedder.submit(["text"]))
    assert type(error) is ModelError


async def test_a_service_that_is_away_is_asked_until_it_is_there(
    openai_server: Any, connect: Any, eventually: Any
) -> None:
    openai_server.fail(503, times=2, code="loading")
    embedder = await connect(retries=0)
    with pytest.raises(ModelUnavailableError, match=r"status 503 \(loading\)"):
        _ = embedder.info
    with pytest.raises(ModelUnavailableError):
        embedder.submit(["text"])

    def is_known() -> bool:
        try:
            return bool(embedder.info)
        except ModelUnavailableError:
            return False

    await eventually(is_known)
    assert await lengths(embedder.submit(["text"])) == [4]
