"""What reranking by late interaction costs, and whether it puts the right passage higher.

    python -m bench.rerank

The texts are docstrings of the standard library. For the cost, one query is scored with 50 of them.
For the quality, the first line of a docstring, without the words of the name it documents, is a
query, and the rest of the docstring the passage to be found among those of all others. The 50
passages nearest by vector are reranked; the mean reciprocal rank (MRR) tells the orders apart, and
an interval of 95 % (bootstrap over the queries) whether the difference is one.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from bench.corpus import docstrings, named_docstrings
from bench.report import add_json_option, print_table, write_json
from sidecar.models.cpus import usable_cpus
from sidecar.models.late_interaction import LateInteractionReranker, max_similarity
from sidecar.models.local import LocalEmbedder
from sidecar.models.packs import default_folder
from sidecar.models.pull import pull

if TYPE_CHECKING:
    from numpy.typing import NDArray

PASSAGES = 50
VECTORS, MAXSIM, BOTH = "vectors", "MaxSim", "the sum of both"
QUERY = "how is a string with a date turned into an object, given its format"


async def main() -> None:
    """Measures, prints two tables, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--passages", type=int, default=2000, help="to search in (default 2000)")
    parser.add_argument("--rounds", type=int, default=9, help="the median of so many counts")
    add_json_option(parser)
    options = parser.parse_args()

    folder = pull("minilm", default_folder(), lambda stage, done, total: None)
    embedder = LocalEmbedder.load(folder, "minilm", provider="cpu", queue_inputs=10**6)
    reranker = LateInteractionReranker(embedder)
    costs = await measure_cost(embedder, reranker, options.rounds)
    print_table(
        f"One query with {PASSAGES} docstrings, {usable_cpus()} CPUs, ms",
        ("what", "ms"),
        list(costs.items()),
    )
    ranks = await measure_ranks(embedder, options.passages)
    figures = {name: summary(found) for name, found in ranks.items()}
    print_table(
        f"{len(ranks[VECTORS])} queries and passages, the nearest {PASSAGES} reranked",
        ("order", "MRR", "first", "among the first 10"),
        [(name, f["mrr"], f["first"], f["ten"]) for name, f in figures.items()],
    )
    low, high = interval(1 / ranks[MAXSIM] - 1 / ranks[VECTORS])
    print(f"MRR of {MAXSIM} less that of {VECTORS}: {low:+.3f} to {high:+.3f}")
    await reranker.close()
    await embedder.close()
    write_json(
        options.json,
        {"cpus": usable_cpus(), "ms": costs, "ranks": figures, "difference": [low, high]},
    )


async def measure_cost(
    embedder: LocalEmbedder, reranker: LateInteractionReranker, rounds: int
) -> dict[str, float]:
    """Milliseconds for one call, for what the encoder does of it, and for MaxSim."""
    texts = docstrings(PASSAGES)
    whole: list[float] = []
    encoding: list[float] = []
    scoring: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        await asyncio.gather(*reranker.submit([(QUERY, text) for text in texts]))
        called = time.perf_counter()
        query, *passages = await asyncio.gather(*embedder.submit_tokens([QUERY, *texts]))
        encoded = time.perf_counter()
        for passage in passages:
            max_similarity(query, passage)
        whole.append(called - start)
        encoding.append(encoded - called)
        scoring.append(time.perf_counter() - encoded)
    return {
        "the call": 1e3 * statistics.median(whole),
        "of it, the encoder": 1e3 * statistics.median(encoding),
        "of it, MaxSim": 1e3 * statistics.median(scoring),
    }


async def measure_ranks(embedder: LocalEmbedder, count: int) -> dict[str, NDArray[np.int64]]:
    """The rank of the right passage of each query, by vector and reranked in two ways."""
    pairs = question_pairs(count)
    texts = [query for query, _ in pairs] + [passage for _, passage in pairs]
    embedded = await asyncio.gather(*embedder.submit(texts))
    vectors = np.stack([one.vector for one in embedded])
    tokens = await asyncio.gather(*embedder.submit_tokens(texts))
    ranks: dict[str, list[int]] = {VECTORS: [], MAXSIM: [], BOTH: []}
    for number in range(len(pairs)):
        cosines = vectors[len(pairs) :] @ vectors[number]
        place = int((cosines > cosines[number]).sum())
        nearest = np.argsort(-cosines, kind="stable")[:PASSAGES]
        scores = np.zeros(len(pairs))
        for passage in nearest:
            scores[passage] = max_similarity(tokens[number], tokens[len(pairs) + passage])
        for name, keys in ((VECTORS, cosines), (MAXSIM, scores), (BOTH, cosines + scores)):
            # What is not among the nearest keeps its place behind them.
            found = number in nearest
            ranks[name].append(1 + (int((keys[nearest] > keys[number]).sum()) if found else place))
    return {name: np.array(found) for name, found in ranks.items()}


def question_pairs(count: int) -> list[tuple[str, str]]:
    """First lines without the name of what they document, and what follows them."""
    pairs: list[tuple[str, str]] = []
    for text, name in named_docstrings(10**6).items():
        first, _, rest = text.partition("\n\n")
        words = {word for word in re.split(r"[\W_]+", name.lower()) if word}
        kept = [
            word for word in first.split() if not words & set(re.split(r"[\W_]+", word.lower()))
        ]
        if len(kept) >= 4 and len(rest) >= 100:
            pairs.append((" ".join(kept), rest))
    return pairs[:count]


def summary(ranks: NDArray[np.int64]) -> dict[str, float]:
    """MRR, and the shares of right passages at the first place and among the first ten."""
    return {
        "mrr": float((1 / ranks).mean()),
        "first": float((ranks == 1).mean()),
        "ten": float((ranks <= 10).mean()),
    }


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The bootstrap interval of 95 % of their mean."""
    random = np.random.default_rng(0)
    means = random.choice(differences, (2000, len(differences))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    asyncio.run(main())
