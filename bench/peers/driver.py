"""Asks one peer in its own Python, as `bench.peers.drive` tells it; every peer is asked by this.

    python -m bench.peers.driver MODULE '{"redis": ..., ...}'

Reads one JSON object a line, ``{"do": NAME, ...}``, and answers each with one line:
``{"answer": ...}``, or ``{"error": "..."}``. The first line it says is the peer's version.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_LATENCY_SECONDS, _OUTAGE_SECONDS = 10.0, 20.0


class Way(Protocol):
    """A peer, opened."""

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors of texts, from the cache where they are there."""

    def computed(self) -> int:
        """How many texts the model has computed since it was started."""


class Driver:
    """What can be asked of a peer. Times are in milliseconds unless named seconds."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def embed(self, texts: list[str]) -> dict[str, float]:
        """One call with all texts."""
        before = self._way.computed()
        began = time.perf_counter()
        self._way.embed(texts)
        seconds = time.perf_counter() - began
        return {"ms": seconds * 1000, "computed": self._way.computed() - before}

    def vectors(self, texts: list[str]) -> list[list[float]]:
        """What it answers."""
        return [[float(value) for value in vector] for vector in self._way.embed(texts)]

    def singly(self, texts: list[str]) -> None:
        """Each text in a call of its own, which is an entry of its own where requests are kept."""
        for text in texts:
            self._way.embed([text])

    def latencies(self, texts: list[str]) -> list[float]:
        """One text a call, one call at a time; fewer calls if they are very slow."""
        end = time.monotonic() + _LATENCY_SECONDS
        return [self._timed(text) for text in texts if time.monotonic() < end]

    def throughput(self, texts: list[str], threads: int, seconds: float) -> float:
        """Calls a second of so many threads, one text a call."""
        end = time.perf_counter() + seconds

        def calls(number: int) -> int:
            done = 0
            while time.perf_counter() < end:
                self._way.embed([texts[(done * threads + number) % len(texts)]])
                done += 1
            return done

        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            done = sum(pool.map(calls, range(threads)))
        return done / (time.perf_counter() - began)

    def computed(self) -> int:
        """As the peer says."""
        return self._way.computed()

    def stampede(self, text: str, callers: int, at: float) -> dict[str, Any]:
        """All callers ask for one text at once, at a time of `time.time`."""
        barrier = threading.Barrier(callers)

        def call(_: int) -> tuple[float, str]:
            barrier.wait()
            time.sleep(max(0.0, at - time.time()))
            try:
                return self._timed(text), ""
            except Exception as error:
                return 0.0, type(error).__name__

        with ThreadPoolExecutor(callers) as pool:
            calls = list(pool.map(call, range(callers)))
        said = [error for _, error in calls if error]
        return {"ms": max(ms for ms, _ in calls), "failed": len(said), "said": said[-1:]}

    def outage(self, texts: list[str]) -> dict[str, Any]:
        """One text a call; what is answered, how fast, and what is said when it is not."""
        times, failed, said = [], 0, ""
        end = time.monotonic() + _OUTAGE_SECONDS
        for text in texts:
            began = time.perf_counter()
            try:
                self._way.embed([text])
            except Exception as error:
                failed += 1
                said = type(error).__name__
            times.append((time.perf_counter() - began) * 1000)
            if time.monotonic() > end:
                break
        return {"asked": len(times), "failed": failed, "times": times, "said": said}

    def close(self) -> None:
        """Lets it write what it writes at its end, if it does."""
        if hasattr(self._way, "close"):
            self._way.close()

    def _timed(self, text: str) -> float:
        began = time.perf_counter()
        self._way.embed([text])
        return (time.perf_counter() - began) * 1000


def main() -> None:
    """Answers until there is nothing more to read."""
    # Libraries print what they like to standard output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module = importlib.import_module(f"bench.peers.ways.{sys.argv[1]}")
    driver = Driver(module.Opened(json.loads(sys.argv[2])))
    print(json.dumps({"answer": version(module.PACKAGE)}), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(driver, request.pop("do"))(**request)
            print(json.dumps({"answer": answer}), file=answers)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}), file=answers)
    os._exit(0)  # threads of a peer may wait for ever


if __name__ == "__main__":
    main()
