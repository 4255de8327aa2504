"""Scores from the token vectors of an encoder.

The small model has the vector [1, 1] for "one", [2, 2] for "two", [3, -3] for "three", [1, 0] for
[CLS] and [0, 1] for [SEP].
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sidecar.models.batcher import BatchLimits
from sidecar.models.errors import SetupError
from sidecar.models.late_interaction import LateInteractionReranker, max_similarity
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
    RerankerInfo,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidecar.models.types import Pair

VECTORS = {"one": [1, 1], "two": [2, 2], "three": [3, -3]}
HALF = 0.5**0.5
words = st.lists(st.sampled_from(sorted(VECTORS)), min_size=1, max_size=6).map(" ".join)


class Held:
    """A reranker over a real small model, whose runs wait for `go`."""

    def __init__(self, folder: Path, hold_encoder: Any, queue_inputs: int) -> None:
        self.encoder = hold_encoder(folder)
        self.go = self.encoder.go
        info = ModelInfo("test", "v", 2, 8, True, False, "cpu")
        tokeniser = TextTokeniser(read_pack(folder).text.tokenizer, 8)
        limits = BatchLimits(tokens=64, rows=8, run_cost=64)
        self.embedder = LocalEmbedder(self.encoder, tokeniser, info, limits, queue_inputs)
        self.reranker = LateInteractionReranker(self.embedder)
        self.submit = self.reranker.submit

    @property
    def batches(self) -> list[int]:
        return [len(batch) for batch in self.encoder.batches]

    async def occupied(self) -> asyncio.Future[Embedded]:
        """Starts a run, so that what is submitted next has to wait."""
        (future,) = self.embedder.submit(["one"])
        assert await asyncio.to_thread(self.encoder.started.acquire, timeout=30)
        return future


@pytest.fixture
async def hold(make_pack: Any, hold_encoder: Any) -> AsyncIterator[Callable[..., Held]]:
    made: list[Held] = []

    def make(queue_inputs: int = 100) -> Held:
        made.append(Held(make_pack.text(), hold_encoder, queue_inputs))
        return made[-1]

    yield make
    for held in made:
        held.go()
        await held.reranker.close()
        await held.embedder.close()


@pytest.fixture
async def load(make_pack: Any) -> AsyncIterator[Callable[..., LateInteractionReranker]]:
    """Makes rerankers over small models."""
    embedders: list[LocalEmbedder] = []
    rerankers: list[LateInteractionReranker] = []

    def make(**options: Any) -> LateInteractionReranker:
        folder = make_pack.text(**options)
        embedders.append(LocalEmbedder.load(folder, "test", provider="cpu", batch_tokens=32))
        rerankers.append(LateInteractionReranker(embedders[-1]))
        return rerankers[-1]

    yield make
    for reranker in rerankers:
        await reranker.close()
    for embedder in embedders:
        await embedder.close()


async def outcomes(futures: list[asyncio.Future[float]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 30)


def approx(*scores: float) -> Any:
    return pytest.approx(scores, abs=1e-6)


def brute_force(query: str, passage: str) -> float:
    """MaxSim, one cosine at a time."""

    def cosine(one: str, other: str) -> float:
        a, b = np.array(VECTORS[one]), np.array(VECTORS[other])
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    best = [max(cosine(word, other) for other in passage.split()[:6]) for word in query.split()[:6]]
    return sum(best) / len(best)


# MaxSim


unit_vectors = (
    arrays(
        np.float32, st.tuples(st.integers(1, 300), st.just(8)), elements=st.floats(-1, 1, width=16)
    )
    .filter(lambda a: bool((np.linalg.norm(a, axis=1) > 0.01).all()))
    .map(lambda a: a / np.linalg.norm(a, axis=1, keepdims=True))
)


@settings(max_examples=50)
@given(unit_vectors, unit_vectors, st.sampled_from([1, 100, 2**18]))
def test_max_similarity_is_the_mean_over_the_querys_tokens_of_the_largest_cosine(
    query: Any, passage: Any, one_thread: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.models.late_interaction._ONE_THREAD", one_thread)
        score = max_similarity(query, passage)
    best = [max(float(np.dot(token, other)) for other in passage) for token in query]
    assert score == pytest.approx(sum(best) / len(best), abs=1e-5)
    assert -1 <= score <= 1


def test_texts_without_tokens_are_not_alike() -> None:
    none, some = np.zeros((0, 2), np.float32), np.ones((1, 2), np.float32)
    assert [max_similarity(none, some), max_similarity(some, none)] == [0, 0]


# Of each pair


async def test_a_token_counts_with_the_nearest_of_the_passages_tokens(load: Any) -> None:
    futures = load().submit([("one three", "two"), ("one", "three two"), ("one", "three")])
    assert await outcomes(futures) == approx(0.5, 1, 0)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(words, words), max_size=8))
async def test_scores_come_in_the_order_of_the_pairs(load: Any, pairs: list[Pair]) -> None:
    assert await outcomes(load().submit(pairs)) == approx(*(brute_force(*pair) for pair in pairs))


async def test_special_tokens_count_only_where_there_are_no_others(load: Any) -> None:
    futures = load().submit([("one", "three"), ("one", ""), ("", "one")])
    assert await outcomes(futures) == approx(0, HALF, HALF)


async def test_a_text_without_any_tokens_scores_0(load: Any) -> None:
    reranker = load(special_tokens=False)
    assert await outcomes(reranker.submit([("one", ""), ("", "one"), ("one", "one")])) == approx(
        0, 0, 1
    )


async def test_what_the_model_does_not_read_does_not_count(load: Any) -> None:
    futures = load().submit([("one", "three " * 6 + "one"), ("one", "three " * 5 + "one")])
    assert await outcomes(futures) == approx(0, 1)


async def test_prompts_of_the_model_are_put_in_front(make_pack: Any, load: Any) -> None:
    make_pack.json(
        "config_sentence_transformers.json", {"prompts": {"query": "three ", "document": "two "}}
    )
    assert await outcomes(load().submit([("one", "three"), ("one", "one")])) == approx(1, 0.5)


async def test_token_vectors_come_from_an_output_beside_the_pooled_one(load: Any) -> None:
    reranker = load(output="sentence_embedding", pooled_rows="right", states="token_embeddings")
    assert await outcomes(reranker.submit([("one three", "two")])) == approx(0.5)


# Of each call


async def test_each_text_of_a_call_is_computed_once(hold: Any) -> None:
    held = hold()
    held.go()
    pairs = [("one", "two"), ("one", "three"), ("two", "two"), ("one", "two")]
    found = await outcomes(held.submit(pairs))
    assert found == approx(1, 0, 1, 1)
    assert held.embedder.counters.computed == 3  # one, two, three


async def test_pairs_given_twice_have_scores_of_their_own(hold: Any) -> None:
    held = hold()
    await held.occupied()
    first, second = held.submit([("one three", "two one")] * 2)
    first.cancel()
    held.go()
    assert await outcomes([second]) == [pytest.approx(1 / 2)]


async def test_no_pairs_are_no_futures(load: Any) -> None:
    assert load().submit([]) == []


async def test_calls_share_runs_with_each_other_but_not_with_those_that_embed(hold: Any) -> None:
    held = hold()
    first = await held.occupied()
    scores = [*held.submit([("one", "two")]), *held.submit([("two", "three")])]
    embedded = held.embedder.submit(["one", "two"])
    held.go()
    assert await outcomes(scores) == approx(1, 0)
    await outcomes([first, *embedded])
    assert held.batches == [1, 4, 2]


async def test_pairs_do_not_wait_for_the_runs_of_others(hold: Any) -> None:
    held = hold()
    await held.occupied()
    passages = [f"three {a} {b}" for a in VECTORS for b in VECTORS]
    futures = held.submit([("one three two", passage) for passage in passages])
    held.go(2)  # the second computes 8 texts: the query and 7 passages
    await outcomes(futures[:7])
    assert not any(future.done() for future in futures[7:])
    held.go()
    await outcomes(futures)


# The queue


async def test_a_call_without_room_for_all_its_texts_is_refused(hold: Any) -> None:
    held = hold(queue_inputs=3)
    await held.occupied()
    with pytest.raises(QueueFullError, match=r"no room for 4 inputs"):
        held.submit([("one", "two"), ("one", "three"), ("one", "one two")])
    futures = held.submit([("one", "two"), ("one", "three")])
    held.go()
    assert await outcomes(futures) == approx(1, 0)


async def test_texts_that_no_pair_needs_any_more_are_not_computed(hold: Any) -> None:
    held = hold()
    await held.occupied()
    kept, *gone = held.submit([("one", "two"), ("one", "three"), ("three", "two three")])
    for future in gone:
        future.cancel()
    await asyncio.sleep(0)
    held.go()
    assert await outcomes([kept]) == approx(1)
    assert held.batches == [1, 2]
    assert held.embedder.counters.abandoned == 2  # "three", once for all pairs, and "two three"


async def test_a_pair_cancelled_during_the_run_leaves_the_others_alone(hold: Any) -> None:
    held = hold()
    await held.occupied()
    cancelled, kept = held.submit([("one", "two"), ("one", "three")])
    held.go(1)
    assert await asyncio.to_thread(held.encoder.started.acquire, timeout=30)
    cancelled.cancel()
    held.go()
    assert await outcomes([kept]) == approx(0)


async def test_token_vectors_go_when_no_pair_needs_them_any_more() -> None:
    loop = asyncio.get_running_loop()
    tokens = {text: loop.create_future() for text in ("query", "near", "far")}
    reranker = LateInteractionReranker(
        SimpleNamespace(  # type: ignore[arg-type]
            info=ModelInfo("test", "v", 2, 8, True, False, "cpu"),
            gives_token_vectors=True,
            submit_tokens=lambda texts: [tokens.pop(text) for text in texts],
        )
    )
    query, near, far = tokens.values()
    scores = reranker.submit([("query", "near"), ("query", "far")])
    query.set_result(np.array([[1, 0]], np.float32))
    vectors = np.array([[1, 0]], np.float32)
    seen = weakref.ref(vectors)
    near.set_result(vectors)
    del near, vectors
    assert await outcomes(scores[:1]) == approx(1)
    async with asyncio.timeout(30):
        while seen() is not None:
            await asyncio.sleep(0)
            gc.collect()
    far.set_result(np.array([[0, 1]], np.float32))
    assert await outcomes(scores[1:]) == approx(0)


# Failures


@pytest.mark.parametrize("word", ["nan", "inf", "crash"])
async def test_a_passage_without_vectors_fails_its_pair_only(load: Any, word: str) -> None:
    one, bad, two = await outcomes(load().submit([("one", "two"), ("one", word), ("one", "three")]))
    assert (one, two) == approx(1, 0)
    assert isinstance(bad, ModelError)
    assert str(bad).startswith("model test gave no vector for this input (")


async def test_a_query_without_vectors_fails_its_pairs_only(load: Any) -> None:
    found = await outcomes(load().submit([("nan", "two"), ("nan", "one"), ("one", "two")]))
    assert [isinstance(outcome, ModelError) for outcome in found] == [True, True, False]


async def test_a_pair_whose_texts_both_fail_fails_once(load: Any) -> None:
    (bad,) = await outcomes(load().submit([("nan", "inf")]))
    assert isinstance(bad, ModelError)


async def test_a_text_that_is_not_unicode_is_rejected_alone(load: Any) -> None:
    bad, good = await outcomes(load().submit([("one", "\ud800"), ("one", "two")]))
    assert isinstance(bad, InputRejectedError)
    assert good == pytest.approx(1)


async def test_what_goes_wrong_while_scoring_fails_the_pairs(
    load: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def out_of_memory(query: Any, passage: Any) -> float:
        raise MemoryError

    reranker = load()
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.models.late_interaction.max_similarity", out_of_memory)
        (bad,) = await outcomes(reranker.submit([("one", "two")]))
    assert str(bad) == "the pair was not scored (MemoryError)"
    assert "test-maxsim could not score 1 pair" in caplog.text
    assert await outcomes(reranker.submit([("one", "two")])) == approx(1)


# The end


async def test_close_fails_what_waits_and_leaves_the_encoder_open(hold: Any) -> None:
    held = hold()
    await held.occupied()
    futures = held.submit([("one", "two"), ("one", "three")])
    await held.reranker.close()
    assert all(isinstance(error, ModelUnavailableError) for error in await outcomes(futures))
    with pytest.raises(ModelUnavailableError):
        held.submit([("one", "two")])
    held.go()
    (embedded,) = await outcomes(held.embedder.submit(["two"]))
    assert isinstance(embedded, Embedded)
    assert held.embedder.counters.abandoned == 3


async def test_an_encoder_that_closes_fails_what_waits(hold: Any) -> None:
    held = hold()
    await held.occupied()
    futures = held.submit([("one", "two"), ("one", "three")])
    closing = asyncio.create_task(held.embedder.close())
    assert all(isinstance(error, ModelUnavailableError) for error in await outcomes(futures))
    held.go()
    await closing


async def test_close_ends_the_scoring_in_progress(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    begun, go = asyncio.Event(), asyncio.Event()

    def slow(query: Any, passage: Any) -> float:
        loop.call_soon_threadsafe(begun.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(30)
        return 0.25

    monkeypatch.setattr("sidecar.models.late_interaction.max_similarity", slow)
    reranker = load()
    (score,) = reranker.submit([("one", "two")])
    await asyncio.wait_for(begun.wait(), 30)
    closing = asyncio.create_task(reranker.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go.set()
    await closing
    assert score.result() == 0.25


# What it is


async def test_info_names_the_model_and_the_way(make_pack: Any, load: Any) -> None:
    info = load().info
    assert info == RerankerInfo("test-maxsim", info.version, "cpu")
    assert info.version != read_pack(make_pack.folder).version


async def test_the_version_changes_with_the_model_and_with_the_way(
    make_pack: Any, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {load().info.version, load().info.version}
    assert len(versions) == 1
    make_pack.json("config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    versions.add(load().info.version)
    monkeypatch.setattr("sidecar.models.late_interaction._ALGORITHM", b"maxsim 2")
    versions.add(load().info.version)
    assert len(versions) == 3


@pytest.mark.parametrize("kind", ["pooled", "tensor"])
def test_a_model_without_token_vectors_cannot_rerank(make_pack: Any, kind: str) -> None:
    pooled = {"output": "sentence_embedding", "pooled_rows": "right"}
    folder = make_pack.tensor() if kind == "tensor" else make_pack.text(**pooled)
    embedder = LocalEmbedder.load(folder, "mine", provider="cpu")
    with pytest.raises(SetupError, match=r"model mine cannot rerank: .* in model.rerankers, or"):
        LateInteractionReranker(embedder)
