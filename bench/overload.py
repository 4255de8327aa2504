"""Hits and misses while twice as many misses are asked for as the model can compute.

    python -m bench.overload

A sidecar serves the pack minilm without lower tiers. A miss is a call for one text of 900
characters, somewhat less than the model reads, that nobody has asked for before. First the
*capacity* is measured: such texts a second with 64 calls always under way, and nothing else. Then,
in each round, one after the other:

- *hits alone*: the same call of Embed, answered from memory. Closed loop: 4 connections with 8
  calls each, as fast as they are answered. And at fixed rates, a third and two thirds of that.
- *misses alone*, at twice the capacity, each with a deadline. Open loop: calls begin at random
  times (Poisson) whatever has become of those before.
- *both*, with hits in a closed loop and at the fixed rates.

What is compared: the throughput of hits with that of the hits alone of the same round, as the
median of the rounds; the goodput of misses, which is answers within the deadline,
with the capacity. A miss counts as accepted unless it ends with RESOURCE_EXHAUSTED before it was
taken: those that the sidecar took and then dropped because they were late
(``embercache_model_dropped_late_total``) are taken from the refused, all of them, so that the share
of kept deadlines is rather too low than too high. Whether an accepted one kept its deadline is
judged by its caller, who sets it. Hits are compared with the sidecar's own count of them.

The callers are on the machine of the server and take their part of its CPUs: that of hits is
h2load, which takes little, that of misses a process in Python, which takes a tenth of a CPU or
more. Hits alone are measured without the latter, so that what it takes counts against the server.
Nobody is niced but the sidecar's own threads. A call costs the event loop the same whatever the
length of its text: with shorter texts more of them are twice the capacity, and hits have less of
the loop. Hits in a closed loop take all they can get, and
the misses have the rest: on two CPUs their goodput beside such hits says little. Nor does the
throughput of such hits say how the server treats them, once it and its client alone take both CPUs,
as with the native front door: whatever misses take is missing, and each of the many moments in
which one waits for the other lets the model in. So both are also measured at the fixed rates, at
which the machine has something left.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import multiprocessing
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from embercache.v1 import embed_pb2, embed_pb2_grpc

from bench.answered import all_whole_hits, read_stats
from bench.corpus import docstrings
from bench.load import Load, drive
from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from multiprocessing.connection import Connection

ADDRESS = "127.0.0.1:50775"
METHOD = "/embercache.v1.EmbedService/Embed"
HIT = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
# A chunk of a document: somewhat less than the 256 tokens that the model reads.
_CHARACTERS = 900
_CAPACITY_CALLS = 64
# Of hits, as parts of what they have in a closed loop.
_RATES = {"a third": 1 / 3, "two thirds": 2 / 3}
# Until the queue is as long as it gets.
_SETTLE_SECONDS = 2.0


@dataclass
class Misses:
    """What became of misses, by the names of statuses, and how long those took that ended well.

    ``dropped_late`` of them were accepted, and given up in the queue when they were late.
    """

    seconds: float = 0.0
    dropped_late: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Answers in time a second."""
        return self.ends["OK"] / self.seconds

    @property
    def offered(self) -> float:
        """Calls a second."""
        return self.ends.total() / self.seconds

    @property
    def refused(self) -> float:
        """The share that was refused at once."""
        return self._refusals / self.ends.total()

    @property
    def kept(self) -> float:
        """The share of the others that was answered in time."""
        return self.ends["OK"] / (self.ends.total() - self._refusals)

    @property
    def _refusals(self) -> int:
        return max(0, self.ends["RESOURCE_EXHAUSTED"] - self.dropped_late)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--deadline", type=float, default=1.0, help="of a miss, in seconds")
    parser.add_argument("--overload", type=float, default=2.0, help="misses to capacity")
    add_json_option(parser)
    options = parser.parse_args()
    with sidecar("--server-address", ADDRESS):
        capacity = _run_misses(None, 0.0, lambda: time.sleep(options.seconds))[1].goodput
        print(f"capacity: {capacity:.0f} texts/s", flush=True)
        rounds = [
            _round(options.seconds, options.overload * capacity, options.deadline)
            for _ in range(options.rounds)
        ]
    figures = _summary(rounds, capacity)
    _print(figures, rounds, capacity)
    write_json(options.json, {"overload": figures})


@dataclass(frozen=True)
class Fixed:
    """Hits at a fixed rate, alone and beside misses, and these."""

    alone: Load
    beside: Load
    misses: Misses


@dataclass(frozen=True)
class Round:
    """What was measured in turns. ``free`` is the closed loop; ``fixed`` are those of `_RATES`."""

    free: Load
    misses: Misses
    free_beside: Load
    misses_beside_free: Misses
    fixed: tuple[Fixed, ...]


def _round(seconds: float, rate: float, deadline: float) -> Round:
    def at(part: float) -> Fixed:
        hits_rate = part * free.calls_per_second
        alone = _hits(seconds, hits_rate)
        return Fixed(alone, *_run_misses(rate, deadline, lambda: _hits(seconds, hits_rate)))

    free = _hits(seconds)
    misses = _run_misses(rate, deadline, lambda: time.sleep(seconds))[1]
    free_beside, beside_free = _run_misses(rate, deadline, lambda: _hits(seconds))
    return Round(free, misses, free_beside, beside_free, tuple(map(at, _RATES.values())))


def _summary(rounds: list[Round], capacity: float) -> dict[str, float]:
    def middle(value: Callable[[Round], float]) -> float:
        return median(value(each) for each in rounds)

    figures = {
        "capacity": capacity,
        "hits_ratio": middle(lambda one: _ratio(one.free_beside, one.free)),
        "kept": middle(lambda one: one.misses.kept),
        "kept_beside_free_hits": middle(lambda one: one.misses_beside_free.kept),
        "goodput_to_capacity": middle(lambda one: one.misses.goodput / capacity),
    }
    for at, part in enumerate(_RATES):
        fixed = [one.fixed[at] for one in rounds]
        figures |= {
            f"hits_ratio at {part}": median(_ratio(each.beside, each.alone) for each in fixed),
            f"kept at {part}": median(each.misses.kept for each in fixed),
        }
    return figures


def _ratio(beside: Load, alone: Load) -> float:
    return beside.calls_per_second / alone.calls_per_second


def _print(figures: dict[str, float], rounds: list[Round], capacity: float) -> None:
    parts = list(enumerate(_RATES))
    hits: dict[str, Callable[[Round], Load]] = {
        "closed loop, alone": lambda one: one.free,
        "closed loop, beside misses": lambda one: one.free_beside,
    }
    for at, part in parts:
        hits[f"{part} of that, alone"] = lambda one, at=at: one.fixed[at].alone
        hits[f"{part} of that, beside misses"] = lambda one, at=at: one.fixed[at].beside
    print_table(
        "hits",
        ("", "calls/s", "p50 ms", "p99 ms"),
        [
            (
                name,
                median(of(one).calls_per_second for one in rounds),
                median(of(one).p50_ms for one in rounds),
                median(of(one).p99_ms for one in rounds),
            )
            for name, of in hits.items()
        ],
    )
    misses: dict[str, Callable[[Round], Misses]] = {
        "alone": lambda one: one.misses,
        "beside hits in a closed loop": lambda one: one.misses_beside_free,
    }
    for at, part in parts:
        misses[f"beside hits at {part} of that"] = lambda one, at=at: one.fixed[at].misses
    print_table(
        f"misses, of which the model can compute {capacity:.0f} a second",
        ("", "offered/s", "refused", "kept deadline", "goodput/s", "to capacity", "p50 ms"),
        [
            (
                name,
                median(of(one).offered for one in rounds),
                f"{median(of(one).refused for one in rounds):.1%}",
                f"{median(of(one).kept for one in rounds):.2%}",
                median(of(one).goodput for one in rounds),
                median(of(one).goodput for one in rounds) / capacity,
                float(median(np.median(of(one).latencies_ms or [0.0]) for one in rounds)),
            )
            for name, of in misses.items()
        ],
    )
    print("hits beside misses to hits alone (0.8 is asked for):")
    print(f"  closed loop: {figures['hits_ratio']:.3f}")
    for part in _RATES:
        print(f"  {part} of that: {figures[f'hits_ratio at {part}']:.3f}")
    ends = sum((one.misses_beside_free.ends for one in rounds), Counter[str]())
    print(f"how misses beside hits in a closed loop ended: {dict(ends)}")


def _hits(seconds: float, rate: float | None = None) -> Load:
    raw = HIT.SerializeToString()
    with grpc.insecure_channel(ADDRESS) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(3):  # from the model, from memory item by item, whole
            stub.Embed(HIT)
    probe = drive(ADDRESS, METHOD, raw, calls=1000, connections=4, streams=8, rate=rate)
    calls = round(seconds * probe.calls_per_second)
    with all_whole_hits(ADDRESS, calls):
        return drive(ADDRESS, METHOD, raw, calls=calls, connections=4, streams=8, rate=rate)


def _run_misses(
    rate: float | None, deadline: float, meanwhile: Callable[[], Any]
) -> tuple[Any, Misses]:
    """Does something while misses are asked for: with a rate in an open loop, else in a closed one.

    They are counted from when it begins to when it ends.
    """
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    process = processes.Process(target=_ask, args=(there, _texts(), rate, deadline))
    process.start()
    here.recv()
    time.sleep(_SETTLE_SECONDS)
    before = _dropped_late()
    here.send("count")
    result = meanwhile()
    here.send("stop")
    misses: Misses = here.recv()
    misses.dropped_late = _dropped_late() - before
    process.join()
    return result, misses


def _dropped_late() -> int:
    return sum(each.dropped_late for each in read_stats(ADDRESS).models)


@functools.cache
def _texts() -> list[str]:
    everything = "\n".join(docstrings(5000))
    places = range(0, len(everything) - _CHARACTERS, _CHARACTERS)
    return [everything[place : place + _CHARACTERS] for place in places]


def _ask(pipe: Connection, texts: list[str], rate: float | None, deadline: float) -> None:
    asyncio.run(_Caller(texts, deadline).run(pipe, rate))


class _Caller:
    """Asks for misses, in a process of its own."""

    def __init__(self, texts: list[str], deadline: float) -> None:
        self._deadline = deadline or None
        self._misses = Misses()
        self._counts = False
        self._random = random.Random()
        self._texts = texts
        self._number = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, pipe: Connection, rate: float | None) -> None:
        async with grpc.aio.insecure_channel(ADDRESS) as channel:
            await channel.channel_ready()
            stub = embed_pb2_grpc.EmbedServiceStub(channel)
            asking = asyncio.create_task(self._open(stub, rate) if rate else self._closed(stub))
            pipe.send("begun")
            await asyncio.to_thread(pipe.recv)
            self._counts, began = True, time.perf_counter()
            await asyncio.to_thread(pipe.recv)
            self._misses.seconds = time.perf_counter() - began
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            if rate:
                # Those under way were asked for in time, too.
                await asyncio.gather(*self._tasks)
            self._counts = False
        pipe.send(self._misses)

    async def _open(self, stub: Any, rate: float) -> None:
        due = time.perf_counter()
        while True:
            due += self._random.expovariate(rate)
            await asyncio.sleep(due - time.perf_counter())
            self._begin(self._call(stub, self._counts))

    async def _closed(self, stub: Any) -> None:
        async def again() -> None:
            while True:
                await self._call(stub, None)

        await asyncio.gather(*(again() for _ in range(_CAPACITY_CALLS)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, stub: Any, counts: bool | None) -> None:
        """Makes a call; ``counts``: whether it is counted, None for as it is when it ends."""
        self._number += 1
        text = f"{self._random.getrandbits(64):x} {self._texts[self._number % len(self._texts)]}"
        request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=text)])
        began = time.perf_counter()
        try:
            await stub.Embed(request, timeout=self._deadline)
            end = "OK"
        except grpc.aio.AioRpcError as error:
            end = error.code().name
        if self._counts if counts is None else counts:
            self._misses.ends[end] += 1
            if end == "OK":
                self._misses.latencies_ms.append(1000 * (time.perf_counter() - began))


if __name__ == "__main__":
    main()
