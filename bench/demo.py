"""Shows what the cache does: one corpus, embedded cold, warm and hot, then searched; and answers.

    python -m bench.demo

Starts a private Redis and a sidecar on a Unix socket, and leaves nothing running.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from embercache import AsyncClient
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import demo_generate, demo_search
from bench.corpus import named_docstrings
from bench.processes import sidecar
from bench.report import print_table
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

CALLS_AT_A_TIME = 4
CONSOLE = Console(width=100, highlight=False)


@dataclass(frozen=True)
class Pass:
    """The corpus embedded once: seconds of each call, float32 ``[n, dimensions]``, tiers."""

    name: str
    seconds: float
    latencies: NDArray[np.float64]
    vectors: NDArray[np.float32]
    tiers: Counter[str]


def main() -> None:
    """Runs the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=3000, help="docstrings to embed")
    items = parser.parse_args().items
    # Told to end either way, it ends its servers first.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        _demonstrate(items)
    except KeyboardInterrupt:
        sys.exit(130)


def _demonstrate(items: int) -> None:
    corpus = named_docstrings(items)
    _introduce(len(corpus))
    with tempfile.TemporaryDirectory(prefix="embercache-demo-") as folder, DevRedis() as redis:
        socket = f"{folder}/sidecar.sock"
        options = ("--server-address", "", "--server-socket", socket)
        options += ("--server-drain-delay", "0", "--log-level", "error")
        environment = {"EMBERCACHE_REDIS_URL": redis.url}
        address = f"unix:{socket}"
        with sidecar(*options, environment=environment):
            passes = [_embed_all("cold", address, list(corpus))]
        with sidecar(*options, environment=environment):
            passes += [_embed_all(name, address, list(corpus)) for name in ("warm", "hot")]
            _print_passes(passes)
            demo_search.demonstrate(address, corpus)
        demo_generate.demonstrate(address, options, environment)
    _print_next_steps()


def _introduce(count: int) -> None:
    CONSOLE.print(
        f"\n[bold]Embercache[/]: {count:,} docstrings of Python's standard library, three times."
        f"\nOne text a call, {CALLS_AT_A_TIME} calls at a time, over a Unix socket.\n\n"
        "  [bold]cold[/]  nothing is cached; the model (all-MiniLM-L6-v2) computes every text\n"
        "  [bold]warm[/]  the sidecar was restarted, so its memory is empty; Redis answers\n"
        "  [bold]hot[/]   the same sidecar again; its memory answers\n"
    )


def _embed_all(name: str, address: str, texts: Sequence[str]) -> Pass:
    with _bar(name, len(texts)) as advance:
        return asyncio.run(_call_for_each(name, address, texts, advance))


async def _call_for_each(
    name: str, address: str, texts: Sequence[str], advance: Callable[[], None]
) -> Pass:
    latencies = np.zeros(len(texts))
    rows: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    tiers: Counter[str] = Counter()
    todo = iter(enumerate(texts))
    async with AsyncClient(address, timeout=60) as client:
        await client.models()  # connects

        async def work() -> None:
            for index, text in todo:
                began = time.perf_counter()
                result = await client.embed([text])
                latencies[index] = time.perf_counter() - began
                rows[index] = result.vectors[0]
                tiers.update(result.tiers)
                advance()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as workers:
            for _ in range(CALLS_AT_A_TIME):
                workers.create_task(work())
        seconds = time.perf_counter() - began
    return Pass(name, seconds, latencies, np.stack(rows), tiers)


def _print_passes(passes: Sequence[Pass]) -> None:
    cold, warm, hot = passes
    rows = []
    for each in passes:
        p50, p99 = np.percentile(each.latencies, (50, 99)) * 1000
        answered = ", ".join(f"{count:,} {tier}" for tier, count in each.tiers.most_common())
        rate = len(each.latencies) / each.seconds
        ratio = f"{cold.seconds / each.seconds:.1f}x"
        rows.append((each.name, answered, rate, float(p50), float(p99), ratio))
    header = ("pass", "answered by", "texts/s", "p50 ms a call", "p99 ms a call", "throughput")
    print_table("", header, rows)
    same = (cold.vectors == warm.vectors).all(axis=1) & (cold.vectors == hot.vectors).all(axis=1)
    CONSOLE.print(
        f"{same.sum():,} of {len(same):,} vectors are the same in all passes, bit by bit."
    )


def _print_next_steps() -> None:
    folder = Path(sys.executable).parent
    with suppress(ValueError):
        folder = folder.relative_to(Path.cwd())
    CONSOLE.print(
        "\nNext steps:\n"
        f"  {folder}/embercache serve --dev          a sidecar with a private Redis\n"
        f"  {folder}/embercache embed 'any text'     its vector, from that sidecar; then: stats\n"
        f"  {folder}/embercache generate 'any text'  what follows it, as it comes\n"
        f"  {folder}/python -c 'from embercache import Client; print(Client().embed([\"hi\"]))'",
        markup=False,
    )


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn(f"{name:4}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=CONSOLE, disable=not sys.stdout.isatty(), transient=True
    ) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


if __name__ == "__main__":
    main()
