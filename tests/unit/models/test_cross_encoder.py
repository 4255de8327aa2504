"""Scores from a small cross-encoder.

Its score is the sum over the passage's tokens less that over the query's: 1 for "one", 2 for "two",
3 for "three", 1 for [CLS], which is the query's, and 0 for [SEP].
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.models.cross_encoder import CrossEncoderReranker
from sidecar.models.errors import SetupError
from sidecar.models.pair_pack import read_pair_pack
from sidecar.models.tokenise import PairTokeniser
from sidecar.models.types import (
    InputRejectedError,
    ModelError,
    ModelUnavailableError,
    QueueFullError,
    RerankerInfo,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidecar.models.types import Pair

WEIGHTS = {"one": 1, "two": 2, "three": 3}
NO_ROOM = "the query leaves no room for a passage: this model reads 8 tokens of both"


class Held:
    """A reranker with a real small cross-encoder, whose runs wait for `go`."""

    def __init__(self, folder: Path, hold_cross_encoder: Any, queue_pairs: int) -> None:
        self.encoder = hold_cross_encoder(folder)
        self.go = self.encoder.go
        tokeniser = PairTokeniser(read_pair_pack(folder).text.tokenizer, 8)
        info = RerankerInfo("test", "v", "cpu")
        self.reranker = CrossEncoderReranker(self.encoder, tokeniser, info, {}, queue_pairs)
        self.submit = self.reranker.submit

    @property
    def batches(self) -> list[int]:
        return [len(batch) for batch in self.encoder.batches]

    async def occupied(self) -> asyncio.Future[float]:
        """Starts a run, so that what is submitted next has to wait."""
        (future,) = self.submit([("one", "one")])
        assert await asyncio.to_thread(self.encoder.started.acquire, timeout=30)
        return future


@pytest.fixture
async def hold(make_pack: Any, hold_cross_encoder: Any) -> AsyncIterator[Callable[..., Held]]:
    made: list[Held] = []

    def make(queue_pairs: int = 100) -> Held:
        made.append(Held(make_pack.pairs(), hold_cross_encoder, queue_pairs))
        return made[-1]

    yield make
    for held in made:
        held.go()
        await held.reranker.close()


@pytest.fixture
async def load(make_pack: Any) -> AsyncIterator[Callable[..., CrossEncoderReranker]]:
    """Loads small cross-encoders."""
    loaded: list[CrossEncoderReranker] = []

    def make(**options: Any) -> CrossEncoderReranker:
        loaded.append(CrossEncoderReranker.load(make_pack.pairs(**options), "test", "cpu"))
        return loaded[-1]

    yield make
    for reranker in loaded:
        await reranker.close()


async def outcomes(futures: list[asyncio.Future[float]]) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 30)


# Of each pair


@pytest.mark.parametrize("width", [1, 2])
async def test_the_score_is_the_logit_or_the_difference_of_two(load: Any, width: int) -> None:
    reranker = load(shape=("batch", width))
    assert await outcomes(reranker.submit([("one", "two three"), ("three", "")])) == [3, -4]


async def test_a_model_without_token_types_gets_none(load: Any) -> None:
    assert await outcomes(load(token_types=False).submit([("one", "two three")])) == [-7]


async def test_the_passage_alone_is_truncated(load: Any) -> None:
    futures = load().submit([("one two", "three " * 1000), ("one two", "three " * 3)])
    assert await outcomes(futures) == [9 - 4, 9 - 4]  # 8 tokens, 3 of them special


async def test_words_behind_much_white_space_are_found(load: Any) -> None:
    assert await outcomes(load().submit([("one", " " * 100_000 + "two")])) == [0]


@pytest.mark.parametrize("query", ["one " * 5, "one " * 100, "x" * 10_000_000])
async def test_a_query_that_leaves_no_room_is_rejected_alone(load: Any, query: str) -> None:
    bad, good = await outcomes(load().submit([(query, "one two"), ("one", "two")]))
    assert isinstance(bad, InputRejectedError)
    assert str(bad).startswith(NO_ROOM)
    assert good == 0


async def test_a_text_that_is_not_unicode_is_rejected_alone(load: Any) -> None:
    bad, good = await outcomes(load().submit([("\ud800", "one"), ("one", "two")]))
    assert isinstance(bad, InputRejectedError)
    assert "cannot be tokenised" in str(bad)
    assert good == 0


async def test_prompts_of_the_model_are_put_in_front(make_pack: Any, load: Any) -> None:
    make_pack.json(
        "config_sentence_transformers.json", {"prompts": {"query": "one ", "document": "three "}}
    )
    assert await outcomes(load().submit([("one", "two")])) == [5 - 3]


words = st.lists(st.sampled_from([*WEIGHTS, "nan", "crash"]), max_size=2)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(words, words), max_size=9))
async def test_scores_come_in_the_order_of_the_pairs(
    load: Any, pairs: list[tuple[list[str], list[str]]]
) -> None:
    found = await outcomes(load().submit([(" ".join(q), " ".join(p)) for q, p in pairs]))
    assert len(found) == len(pairs)
    for (query, passage), outcome in zip(pairs, found, strict=True):
        if {"nan", "crash"} & {*query, *passage}:
            assert isinstance(outcome, ModelError)
        else:
            total = sum(WEIGHTS[word] for word in passage) - sum(WEIGHTS[word] for word in query)
            assert outcome == total - 1


async def test_no_pairs_are_no_futures(load: Any) -> None:
    assert load().submit([]) == []


# Batches and the queue


async def test_pairs_of_several_calls_share_a_run(hold: Any) -> None:
    held = hold()
    first = await held.occupied()
    later: list[Pair] = [("one", "two"), ("one two", "three"), ("two", "")]
    futures = [future for pair in later for future in held.submit([pair])]
    held.go()
    assert await outcomes([first, *futures]) == [-1, 0, -1, -3]
    assert held.batches == [1, 3]
    counters = held.reranker.counters
    assert (counters.computed, counters.batches) == (4, 2)
    assert (counters.tokens, counters.padding_tokens) == (5 + 5 + 6 + 4, 1 + 2)


async def test_a_full_queue_takes_all_pairs_of_a_call_or_none(hold: Any) -> None:
    held = hold(queue_pairs=2)
    await held.occupied()
    with pytest.raises(QueueFullError, match=r"no room for 3 inputs"):
        held.submit([("one", "two")] * 3)
    assert held.reranker.counters.shed == 3
    futures = held.submit([("one", "two")] * 2)
    held.go()
    assert await outcomes(futures) == [0, 0]


async def test_a_cancelled_pair_is_not_computed(hold: Any) -> None:
    held = hold()
    await held.occupied()
    cancelled, kept = held.submit([("one", "three"), ("one", "two")])
    cancelled.cancel()
    held.go()
    assert await outcomes([kept]) == [0]
    assert held.batches == [1, 1]


async def test_close_ends_the_run_and_fails_the_queue(hold: Any) -> None:
    held = hold()
    running = await held.occupied()
    waiting = held.submit([("one", "two")])
    closing = asyncio.create_task(held.reranker.close())
    (error,) = await outcomes(waiting)
    assert isinstance(error, ModelUnavailableError)
    held.go()
    await closing
    assert running.result() == -1
    with pytest.raises(ModelUnavailableError):
        held.submit([("one", "two")])


# Failures


@pytest.mark.parametrize("word", ["nan", "inf"])
@pytest.mark.parametrize("width", [1, 2])
async def test_a_score_that_is_not_finite_fails_its_pair_only(
    load: Any, word: str, width: int
) -> None:
    reranker = load(shape=("batch", width))
    one, bad, two = await outcomes(reranker.submit([("one", "two"), ("one", word), ("two", "one")]))
    assert (one, two) == (0, -2)
    assert isinstance(bad, ModelError)
    assert str(bad) == "model test gave no score for this pair (NaN or infinity)"


async def test_a_run_that_fails_is_repeated_pair_by_pair(hold: Any) -> None:
    held = hold()
    await held.occupied()
    futures = held.submit([("one", "two"), ("one", "crash"), ("two", "one")])
    held.go()
    one, bad, two = await outcomes(futures)
    assert (one, two) == (0, -2)
    assert isinstance(bad, ModelError)
    assert held.batches == [1, 3, 1, 1, 1]


# Packs


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            ["batch", 3],
            r"one pair gave shape \[1, 3\]; a cross-encoder is needed that answers with",
        ),
        (["batch"], r"output 'logits' has shape \(None,\); the pack of a cross-encoder is needed"),
        (["batch", "labels", 1], r"output 'logits' has shape \(None, None, 1\)"),
        (["batch", "sequence"], r"one pair gave shape \[1, 3\]"),
    ],
)
def test_a_model_that_does_not_answer_with_one_or_two_numbers_is_refused(
    make_pack: Any, shape: list[Any], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        CrossEncoderReranker.load(make_pack.pairs(shape=shape), "test", "cpu")


def test_the_pack_of_an_encoder_is_refused(make_pack: Any) -> None:
    with pytest.raises(SetupError, match=r"output 'last_hidden_state' .*; the pack of a cross-enc"):
        read_pair_pack(make_pack.text())


def test_of_several_outputs_the_logits_are_taken(make_pack: Any) -> None:
    folder = make_pack.pairs(other_outputs=["attentions"])
    assert read_pair_pack(folder).output.name == "logits"
    folder = make_pack.pairs(output="scores")
    assert read_pair_pack(folder).output.name == "scores"
    with pytest.raises(
        SetupError, match=r"which of the outputs \['other', 'scores'\] is the score"
    ):
        read_pair_pack(make_pack.pairs(output="scores", other_outputs=["other"]))


def test_a_pack_without_tokenizer_is_refused(make_pack: Any) -> None:
    (make_pack.pairs() / "tokenizer.json").unlink()
    with pytest.raises(SetupError, match=r"tokenizer.json: missing; model.onnx reads tokens"):
        read_pair_pack(make_pack.folder)


def test_a_model_that_cannot_run_does_not_load(make_pack: Any) -> None:
    make_pack.json("config.json", {"pad_token_id": 999})
    with pytest.raises(SetupError, match=r"model.onnx: its first run failed"):
        CrossEncoderReranker.load(make_pack.pairs(), "test", "cpu")


async def test_info_tells_what_the_reranker_is(make_pack: Any, load: Any) -> None:
    version = read_pair_pack(make_pack.pairs()).version
    assert load().info == RerankerInfo("test", version, "cpu")


def test_the_version_changes_with_all_that_a_score_depends_on(
    make_pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(**options: Any) -> str:
        return read_pair_pack(make_pack.pairs(**options)).version

    first = version()
    assert version() == first
    versions = {first, version(shape=("batch", 2))}
    make_pack.json("config.json", {"pad_token_id": 1})
    versions.add(version())
    make_pack.json("config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    versions.add(version())
    tokenizer = make_pack.folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    versions.add(read_pair_pack(make_pack.folder).version)
    monkeypatch.setattr("sidecar.models.pair_pack._ALGORITHM", b"cross-encoder 2")
    versions.add(version())
    assert len(versions) == 6
