"""Late interaction with the built-in model, against MaxSim of raw runs of its graph."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from sidecar.models.late_interaction import LateInteractionReranker
from sidecar.models.local import LocalEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from sidecar.models.types import Pair

QUERIES = ["how do I sort a list", "what is the capital of France?", "reading a file line by line"]
PASSAGES = [
    "Lists have a method sort, which orders them in place; sorted returns a new list.",
    "Paris is the capital and the largest city of France.",
    "Iterating over an open file gives its lines one by one. " * 12,
    "Bread.",
    "A query, a passage, and naïve tokens: 你好, ﬁ, 🔥!",
    "",
]
PAIRS: list[Pair] = [(query, passage) for query in QUERIES for passage in PASSAGES]


@pytest.fixture
async def embedder(minilm_folder: Path) -> AsyncIterator[LocalEmbedder]:
    embedder = LocalEmbedder.load(minilm_folder, "minilm", provider="cpu")
    yield embedder
    await embedder.close()


@pytest.fixture
async def reranker(embedder: LocalEmbedder) -> AsyncIterator[LateInteractionReranker]:
    reranker = LateInteractionReranker(embedder)
    yield reranker
    await reranker.close()


@pytest.fixture(scope="module")
def brute_force(minilm_folder: Path) -> Callable[[str, str], float]:
    """MaxSim of a pair, one text a run and one cosine at a time."""
    session = onnxruntime.InferenceSession(minilm_folder / "model.onnx")
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    vectors: dict[str, list[np.ndarray]] = {}

    def states(text: str) -> list[np.ndarray]:
        if text not in vectors:
            encoding = tokenizer.encode(text)
            ids = np.array([encoding.ids])
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            (output,) = session.run(["token_embeddings"], feed)
            own = output[0, 1:-1] if len(encoding.ids) > 2 else output[0]
            vectors[text] = [row.astype(float) / np.linalg.norm(row.astype(float)) for row in own]
        return vectors[text]

    def score(query: str, passage: str) -> float:
        best = [max(float(token @ other) for other in states(passage)) for token in states(query)]
        return sum(best) / len(best)

    return score


async def scores(reranker: LateInteractionReranker, pairs: list[Pair]) -> list[float]:
    return await asyncio.gather(*reranker.submit(pairs))


async def test_scores_are_those_of_the_graphs_own_token_vectors(
    reranker: LateInteractionReranker, brute_force: Callable[[str, str], float]
) -> None:
    expected = [brute_force(*pair) for pair in PAIRS]
    assert await scores(reranker, PAIRS) == pytest.approx(expected, abs=1e-5)


async def test_a_score_does_not_depend_on_batch_mates(
    embedder: LocalEmbedder, reranker: LateInteractionReranker
) -> None:
    alone = [(await scores(reranker, [pair]))[0] for pair in PAIRS]
    runs = embedder.counters.batches
    together = await scores(reranker, PAIRS)
    assert embedder.counters.batches - runs < len({text for pair in PAIRS for text in pair})
    assert together == pytest.approx(alone, abs=1e-5)


async def test_duplicates_have_the_same_score(reranker: LateInteractionReranker) -> None:
    found = await scores(reranker, PAIRS * 3)
    assert found[: len(PAIRS)] == found[len(PAIRS) : 2 * len(PAIRS)] == found[2 * len(PAIRS) :]


async def test_the_passage_that_answers_scores_highest(reranker: LateInteractionReranker) -> None:
    found = await scores(reranker, PAIRS)
    for number in range(len(QUERIES)):
        of_query = found[number * len(PASSAGES) : (number + 1) * len(PASSAGES)]
        assert int(np.argmax(of_query)) == number


async def test_a_text_is_as_near_as_can_be_to_itself(reranker: LateInteractionReranker) -> None:
    assert await scores(reranker, [(text, text) for text in PASSAGES]) == pytest.approx(
        [1] * len(PASSAGES), abs=1e-5
    )
