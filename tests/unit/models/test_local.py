"""The queue in front of a model: admission, batches, cancellation, failures."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.demand import Demand, act_for
from sidecar.models.batcher import BatchLimits
from sidecar.models.local import LocalEmbedder
from sidecar.models.pack import read_pack
from sidecar.models.tokenise import TextTokeniser
from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelError,
    ModelInfo,
    ModelUnavailableError,
    QueueFullError,
    TooLateError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidecar.models.types import ModelInput

LIMITS = BatchLimits(tokens=64, rows=8, run_cost=64)


class Held:
    """A `LocalEmbedder` of a real small model, whose runs wait for `go`."""

    def __init__(self, folder: Path, hold_encoder: Any, queue_inputs: int) -> None:
        pack = read_pack(folder)
        self.encoder = hold_encoder(folder)
        self.go = self.encoder.go
        tokeniser = TextTokeniser(pack.text.tokenizer, 8) if pack.text else None
        info = ModelInfo("test", "v", 2, 8, pack.text is not None, pack.text is None, "cpu")
        self.embedder = LocalEmbedder(self.encoder, tokeniser, info, LIMITS, queue_inputs)
        self.submit = self.embedder.submit

    @property
    def batches(self) -> list[int]:
        return [len(batch) for batch in self.encoder.batches]

    async def run_started(self) -> None:
        assert await asyncio.to_thread(self.encoder.started.acquire, timeout=30)

    async def occupied(self) -> asyncio.Future[Embedded]:
        """Starts a run, so that what is submitted next has to wait."""
        (future,) = self.submit(["one"])
        await self.run_started()
        return future


@pytest.fixture
async def hold(hold_encoder: Any) -> AsyncIterator[Callable[..., Held]]:
    made: list[Held] = []

    def make(folder: Path, queue_inputs: int = 100) -> Held:
        made.append(Held(folder, hold_encoder, queue_inputs))
        return made[-1]

    yield make
    for held in made:
        held.go()
        await held.embedder.close()


@pytest.fixture
async def embedder(make_pack: Any) -> AsyncIterator[LocalEmbedder]:
    embedder = LocalEmbedder.load(make_pack.text(), "test", provider="cpu")
    yield embedder
    await embedder.close()


async def outcomes(futures: list[asyncio.Future[Embedded]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 30)


def unit(*vector: float) -> Any:
    return pytest.approx(np.array(vector) / np.linalg.norm(vector), abs=1e-6)


# Of each input


async def test_a_text_gets_its_vector_and_token_count(embedder: LocalEmbedder) -> None:
    (embedded,) = await outcomes(embedder.submit(["one three"]))
    assert embedded.vector == unit(1 + 1 + 3 + 0, 0 + 1 - 3 + 1)  # [CLS] one three [SEP]
    assert embedded.vector.dtype == np.float32
    assert (embedded.tokens, embedded.truncated) == (4, False)


async def test_a_text_longer_than_the_model_reads_is_marked(embedder: LocalEmbedder) -> None:
    (embedded,) = await outcomes(embedder.submit(["one " * 1000]))
    assert (embedded.tokens, embedded.truncated) == (8, True)


async def test_an_empty_text_has_a_vector(embedder: LocalEmbedder) -> None:
    (embedded,) = await outcomes(embedder.submit([""]))
    assert embedded.vector == unit(1, 1)
    assert embedded.tokens == 2


async def test_no_inputs_are_no_futures(embedder: LocalEmbedder) -> None:
    assert embedder.submit([]) == []


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.sampled_from(["one", "two", "three", "nan", "crash"]), max_size=9)))
async def test_results_come_in_the_order_of_the_inputs(
    make_pack: Any, texts: list[list[str]]
) -> None:
    loaded = LocalEmbedder.load(make_pack.text(), "test", provider="cpu", batch_tokens=32)
    found = await outcomes(loaded.submit([" ".join(words) for words in texts]))
    await loaded.close()
    assert len(found) == len(texts)
    for words, outcome in zip(texts, found, strict=True):
        if {"nan", "crash"} & set(words[:6]):
            assert isinstance(outcome, ModelError)
        else:
            ones, twos, threes = (words[:6].count(word) for word in ("one", "two", "three"))
            total = (1 + ones + 2 * twos + 3 * threes, 1 + ones + 2 * twos - 3 * threes)
            assert outcome.vector == unit(*total)


# Batches


async def test_what_arrives_during_a_run_shares_the_next(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    first = await held.occupied()
    later = [future for text in ("two", "three", "two") for future in held.submit([text])]
    assert held.embedder.queued == 3
    held.go()
    assert all(isinstance(o, Embedded) for o in await outcomes([first, *later]))
    assert held.batches == [1, 3]
    assert held.embedder.queued == 0


async def test_a_lone_input_does_not_wait_for_company(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    held.submit(["one"])
    await held.run_started()
    assert held.batches == [1]


async def test_the_token_budget_counts_padding(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    first = await held.occupied()
    later = held.submit(["one " * 6] * 20)  # 8 tokens each, and 64 in a run
    held.go()
    await outcomes([first, *later])
    assert held.batches == [1, 8, 8, 4]


async def test_counters_tell_tokens_from_padding(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    first = await held.occupied()  # 3 tokens
    later = held.submit(["one two", ""])  # 4 and 2
    held.go()
    await outcomes([first, *later])
    counters = held.embedder.counters
    assert (counters.computed, counters.batches) == (3, 2)
    assert (counters.tokens, counters.padding_tokens) == (9, 2)


# The queue


async def test_a_full_queue_takes_all_inputs_of_a_call_or_none(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text(), queue_inputs=3)
    first = await held.occupied()
    two = held.submit(["one", "two"])
    with pytest.raises(QueueFullError, match=r"no room for 2 inputs: 2 wait .* at most 3 may"):
        held.submit(["one", "two"])
    assert held.embedder.counters.shed == 2
    assert held.embedder.queued == 2
    third = held.submit(["three"])
    held.go()
    assert all(isinstance(o, Embedded) for o in await outcomes([first, *two, *third]))
    await outcomes(held.submit(["one"] * 3))


async def test_cancelled_inputs_make_room(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text(), queue_inputs=2)
    await held.occupied()
    for future in held.submit(["one", "two"]):
        future.cancel()
    last = held.submit(["one", "two"])
    assert held.embedder.counters.abandoned == 2
    held.go()
    assert all(isinstance(o, Embedded) for o in await outcomes(last))


async def test_a_cancelled_input_is_not_computed(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    await held.occupied()
    cancelled, kept = held.submit(["one two three", "two"])
    cancelled.cancel()
    held.go()
    await outcomes([kept])
    assert held.batches == [1, 1]
    assert held.embedder.counters.abandoned == 1
    assert held.embedder.counters.computed == 2


async def test_cancelling_during_the_run_leaves_batch_mates_alone(
    make_pack: Any, hold: Any
) -> None:
    held = hold(make_pack.text())
    await held.occupied()
    cancelled, kept = held.submit(["one", "two"])
    held.go(1)
    await held.run_started()
    cancelled.cancel()
    held.go()
    (outcome,) = await outcomes([kept])
    assert isinstance(outcome, Embedded)
    assert held.embedder.counters.abandoned == 0


async def test_an_input_that_waited_longer_than_its_caller_does_ends_with_an_error(
    make_pack: Any, hold: Any
) -> None:
    held = hold(make_pack.text())
    first = await held.occupied()
    who = Demand()
    act_for(who)
    late = held.submit(["one", "two"])
    who.deadline = time.monotonic()
    held.go()
    for error in await outcomes(late):
        assert isinstance(error, TooLateError)
        assert str(error) == (
            "the deadline passed while the input waited for model test: try again later"
        )
        assert error.retry_after is not None
    assert isinstance(await first, Embedded)
    assert held.embedder.counters.dropped_late == 2
    assert held.batches == [1]


# Failures


@pytest.mark.parametrize("word", ["nan", "inf"])
async def test_a_vector_that_is_not_finite_fails_its_input_only(
    make_pack: Any, hold: Any, word: str
) -> None:
    held = hold(make_pack.text())
    await held.occupied()
    futures = held.submit(["one", word, "two"])
    held.go()
    one, bad, two = await outcomes(futures)
    assert held.batches == [1, 3]
    assert isinstance(one, Embedded)
    assert isinstance(two, Embedded)
    assert isinstance(bad, ModelError)
    assert str(bad) == "model test gave no vector for this input (NaN or infinity)"


async def test_a_run_that_fails_is_repeated_input_by_input(
    make_pack: Any, hold: Any, caplog: pytest.LogCaptureFixture
) -> None:
    held = hold(make_pack.text())
    await held.occupied()
    futures = held.submit(["one", "crash", "two"])
    held.go()
    one, bad, two = await outcomes(futures)
    assert held.batches == [1, 3, 1, 1, 1]
    assert isinstance(one, Embedded)
    assert isinstance(two, Embedded)
    assert isinstance(bad, ModelError)
    assert "test failed on 3 inputs" in caplog.text


async def test_a_batch_with_too_few_vectors_is_repeated_input_by_input(
    make_pack: Any, hold: Any
) -> None:
    held = hold(make_pack.text(output="sentence_embedding", pooled_rows="one"))
    await held.occupied()
    futures = held.submit(["one", "two"])
    held.go()
    assert all(isinstance(outcome, Embedded) for outcome in await outcomes(futures))
    assert held.batches == [1, 2, 1, 1]


async def test_a_text_that_is_not_unicode_is_rejected_alone(embedder: LocalEmbedder) -> None:
    bad, good = await outcomes(embedder.submit(["\ud800", "one"]))
    assert isinstance(bad, InputRejectedError)
    assert isinstance(good, Embedded)


async def test_a_tensor_for_a_model_of_texts_is_rejected_alone(embedder: LocalEmbedder) -> None:
    inputs: list[ModelInput] = [np.zeros(3), "one"]
    bad, good = await outcomes(embedder.submit(inputs))
    assert isinstance(bad, InputRejectedError)
    assert str(bad) == "model test takes text, not tensors"
    assert isinstance(good, Embedded)


async def test_models_of_tensors_reject_texts_and_other_shapes_alone(make_pack: Any) -> None:
    model = LocalEmbedder.load(make_pack.tensor(), "test", provider="cpu")
    inputs: list[ModelInput] = ["one", np.zeros((9, 9), np.float32), np.ones((2, 3), np.float32)]
    text, shape, good = await outcomes(model.submit(inputs))
    await model.close()
    assert str(text) == "model test takes tensors, not text"
    assert isinstance(shape, InputRejectedError)
    assert good.vector.tolist() == [1, 1, 1]
    assert (good.tokens, good.truncated) == (0, False)
    assert (model.info.accepts_text, model.info.accepts_tensor) == (False, True)


async def test_only_tensors_of_one_shape_share_a_run(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.tensor(shape=("frames", 3)))
    (first,) = held.submit([np.ones((1, 3), np.float32)])
    await held.run_started()
    later = held.submit([np.ones((size, 3), np.float32) for size in (5, 7, 5, 7, 7)])
    held.go()
    await outcomes([first, *later])
    assert held.batches == [1, 2, 3]


# The end


async def test_close_ends_the_run_and_fails_the_queue(make_pack: Any, hold: Any) -> None:
    held = hold(make_pack.text())
    running = await held.occupied()
    waiting = held.submit(["one", "two"])
    closing = asyncio.create_task(held.embedder.close())
    failed = await outcomes(waiting)
    assert all(isinstance(error, ModelUnavailableError) for error in failed)
    held.go()
    await closing
    assert isinstance(running.result(), Embedded)
    assert held.embedder.queued == 0
    with pytest.raises(ModelUnavailableError):
        held.submit(["one"])


async def test_close_ends_the_threads(make_pack: Any) -> None:
    model = LocalEmbedder.load(make_pack.text(), "mine", provider="cpu")
    await outcomes(model.submit(["one"]))
    assert {t.name for t in threading.enumerate()} >= {"tokenise-mine", "encode-mine"}
    await model.close()
    await model.close()
    assert not {t.name for t in threading.enumerate()} & {"tokenise-mine", "encode-mine"}


async def test_a_model_never_used_can_be_closed(make_pack: Any) -> None:
    await LocalEmbedder.load(make_pack.text(), "test", provider="cpu").close()


async def test_info_tells_what_the_model_is(make_pack: Any) -> None:
    make_pack.json("config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    folder = make_pack.text()
    info = LocalEmbedder.load(folder, "mine", provider="cpu").info
    assert info == ModelInfo(
        name="mine",
        version=read_pack(folder).version,
        dimensions=2,
        max_tokens=8,
        accepts_text=True,
        accepts_tensor=False,
        runs_on="cpu",
        prompts={"query": "q: "},
    )
