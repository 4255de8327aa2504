"""Whether a sidecar grows under calls of every kind: memory, descriptors, tasks, threads.

A real sidecar (encoder and generator in its process, small tiers, one of them on disk, all
encrypted) and a real Redis take mixed calls
for at least ``--minutes``, and until there were ``--calls`` of them.

- **Memory.** Resident memory is read from /proc every ``--every`` seconds. The first
  ``--warm-up`` share of the run fills the tiers and is left out. What is left is cut into ten
  blocks of equal length, because neighbouring samples resemble each other; lines are fitted to
  their means, over calls and over time, and their slopes have a confidence interval of 95 %
  (Student's t with 8 degrees of freedom). It fails unless the whole interval is below
  ``--most-per-call`` bytes a call: ten minutes can show that no call leaves an object of usual
  size behind. It fails if the whole interval is above ``--most-growth`` MiB an hour. Of half an
  hour and more after the warm-up it also asks that the whole interval is below that; ten minutes
  cannot tell, and the verdict says so.
- **Leaks.** After the warm-up, and again at the end, calls pause until nothing is under way; then
  descriptors, threads and asyncio tasks are counted. It fails if there are more than ``--slack``
  more at the end. Tasks are those of the metric ``embercache_tasks``.

Ends with status 1 if it has failed.

    python -m bench.soak
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import socket
import tempfile
import time
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json
from bench.soak_calls import Caller
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = 10
T_975 = 2.306  # Student's t for 8 degrees of freedom
COUNTED = ("descriptors", "threads", "tasks")
MIB = 2**20
_CALM_SECONDS = 5.0
_LONG_HOURS = 0.5


@dataclass(frozen=True)
class Sample:
    """The sidecar at one moment: seconds since the start, bytes, and counts."""

    seconds: float
    calls: int
    rss: int
    descriptors: int
    threads: int
    tasks: int


@dataclass(frozen=True)
class Slope:
    """How much more of one thing there is for another, and the half of its confidence interval."""

    value: float
    half: float

    @classmethod
    def fit(cls, x: Sequence[float], y: Sequence[float]) -> Slope:
        """Of y over x. Raises `ValueError` if there are too few."""
        if len(x) < 2 * BLOCKS:
            raise ValueError(f"{len(x)} samples are too few: run it longer")
        blocks = np.array_split(np.stack([x, y], axis=1), BLOCKS)
        xs, ys = np.array([block.mean(axis=0) for block in blocks]).T
        centred = xs - xs.mean()
        slope = centred @ ys / (centred @ centred)
        rest = ys - ys.mean() - slope * centred
        error = np.sqrt(rest @ rest / (BLOCKS - 2) / (centred @ centred))
        return cls(float(slope), float(T_975 * error))


@dataclass(frozen=True)
class Growth:
    """Of resident memory: bytes a call, MiB an hour, and for how many hours it was looked at."""

    per_call: Slope
    an_hour: Slope
    hours: float

    @classmethod
    def of(cls, samples: list[Sample]) -> Growth:
        """Raises `ValueError` if there are too few samples."""
        rss = [float(one.rss) for one in samples]
        hours = [one.seconds / 3600 for one in samples]
        return cls(
            Slope.fit([float(one.calls) for one in samples], rss),
            Slope.fit(hours, [each / MIB for each in rss]),
            hours[-1] - hours[0],
        )


@dataclass(frozen=True)
class Limits:
    """The most that is still well: bytes a call, MiB an hour; descriptors, threads, tasks."""

    per_call: float
    an_hour: float
    slack: int


def faults(growth: Growth, before: Sample, after: Sample, limits: Limits) -> list[str]:
    """What is wrong, by the rules of this module's first lines; nothing if all is well."""
    reasons = []
    # Written so that no number fails, too.
    if not growth.per_call.value + growth.per_call.half <= limits.per_call:
        reasons.append(f"a growth of {limits.per_call:g} bytes a call cannot be excluded")
    if growth.an_hour.value - growth.an_hour.half > limits.an_hour:
        reasons.append("its memory grows")
    elif is_long(growth) and not growth.an_hour.value + growth.an_hour.half <= limits.an_hour:
        reasons.append(f"a growth of {limits.an_hour:g} MiB an hour cannot be excluded")
    slack = limits.slack
    more = [name for name in COUNTED if getattr(after, name) > getattr(before, name) + slack]
    if more:
        reasons.append(f"more {', '.join(more)} than after the warm-up")
    return reasons


def is_long(growth: Growth) -> bool:
    """Whether it was looked at for long enough to tell a slow growth."""
    return growth.hours >= _LONG_HOURS


def main() -> None:
    """Prints samples, slope and verdict."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--warm-up", type=float, default=0.4, help="share of the run")
    parser.add_argument("--most-per-call", type=float, default=100, help="bytes")
    parser.add_argument("--most-growth", type=float, default=10, help="MiB an hour")
    parser.add_argument("--slack", type=int, default=3, help="descriptors, threads, tasks")
    add_json_option(parser)
    options = parser.parse_args()
    metrics, address = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    arguments = {
        "server-address": address,
        "server-metrics-address": metrics,
        "model-threads": 1,
        "generator-packs": "smollm2-135m",
        "log-level": "error",
        # Small, so that they are full after the warm-up.
        "hot-max-bytes": "4MiB",
        "prefix-max-bytes": "64MiB",
        "disk-max-bytes": "16MiB",
    }
    with (
        tempfile.TemporaryDirectory() as name,
        DevRedis() as redis,
        contextlib.ExitStack() as exits,
    ):
        keys = Path(name) / "keys"
        keys.write_text(f"k1:{base64.b64encode(os.urandom(32)).decode()}")
        arguments |= {"disk-folder": f"{name}/disk", "encryption-keys-file": str(keys)}
        flags = [part for flag, value in arguments.items() for part in (f"--{flag}", str(value))]
        environment = {"EMBERCACHE_REDIS_URL": redis.url, "EMBERCACHE_CACHE_SALT": "soak"}
        process = exits.enter_context(sidecar(*flags, environment=environment))
        soak = Soak(Watched(process.pid, metrics), address, options)
        asyncio.run(soak.run())
    soak.report()


class Watched:
    """The process of the sidecar."""

    def __init__(self, pid: int, metrics: str) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._metrics = f"http://{metrics}/metrics"

    def sample(self, seconds: float, calls: int) -> Sample:
        """What it takes now."""
        lines = (self._folder / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines)
        return Sample(
            seconds=seconds,
            calls=calls,
            rss=int(status["VmRSS"].split()[0]) * 1024,
            descriptors=len(list((self._folder / "fd").iterdir())),
            threads=int(status["Threads"]),
            tasks=self._tasks(),
        )

    def _tasks(self) -> int:
        with urllib.request.urlopen(self._metrics) as page:  # noqa: S310 - our own address
            for line in page:
                name, _, value = line.decode().partition(" ")
                if name == "embercache_tasks":
                    return int(float(value))
        raise SystemExit("the sidecar has no metric embercache_tasks")


class Soak:
    """One run."""

    def __init__(self, watched: Watched, address: str, options: argparse.Namespace) -> None:
        self._watched = watched
        self._address = address
        self._options = options
        self._counts: Counter[str] = Counter()
        self._may_ask, self._ended = asyncio.Event(), asyncio.Event()
        self._began = self._paused = 0.0
        self._samples: list[Sample] = []
        self._calm: list[Sample] = []

    async def run(self) -> None:
        """Calls and samples until it is over."""
        self._began = time.monotonic()
        self._may_ask.set()
        async with asyncio.TaskGroup() as group:
            for number in range(self._options.callers):
                caller = Caller(self._address, number, self._counts)
                group.create_task(caller.run(self._may_ask, self._ended))
            while self._share() < self._options.warm_up:
                await self._next()
            warm = len(self._samples)
            await self._pause()
            while self._share() < 1:
                await self._next()
            await self._pause()
            self._ended.set()
        self._samples = self._samples[warm:]

    def report(self) -> None:
        """Prints the verdict; ends with status 1 if it is no good one."""
        growth = Growth.of(self._samples)
        before, after = self._calm
        asked = self._options
        limits = Limits(asked.most_per_call, asked.most_growth, asked.slack)
        reasons = faults(growth, before, after, limits)
        print_table("calls", ("", "number"), self._counts.most_common())
        rows = [(name, getattr(before, name), getattr(after, name)) for name in COUNTED]
        rows.append(("resident MiB", before.rss / MIB, after.rss / MIB))
        print_table("without calls", ("", "after warm-up", "at the end"), rows)
        per_call, an_hour = growth.per_call, growth.an_hour
        print(
            f"{after.calls:,} calls in {after.seconds / 60:.1f} minutes; resident memory"
            f" {per_call.value:+.0f} bytes a call, plus or minus {per_call.half:.0f}, and"
            f" {an_hour.value:+.1f} MiB an hour, plus or minus {an_hour.half:.1f}"
            f" (95 %): {'FAIL: ' + '; '.join(reasons) if reasons else 'PASS'}"
        )
        if not is_long(growth):
            print("too short to tell a growth of a few MiB an hour: run it with --minutes 60")
        figures = {"growth": asdict(growth), "calls": dict(self._counts)}
        write_json(self._options.json, figures | {"calm": [asdict(one) for one in self._calm]})
        if reasons:
            raise SystemExit(1)

    def _share(self) -> float:
        """How much of the run is over."""
        minutes = (time.monotonic() - self._began) / 60
        return min(minutes / self._options.minutes, self._total() / self._options.calls)

    def _total(self) -> int:
        return sum(self._counts.values())

    async def _next(self) -> None:
        """Waits for the next sample, and shows it."""
        await asyncio.sleep(self._options.every)
        sample = await self._sample()
        self._samples.append(sample)
        print(
            f"{sample.seconds:6.0f} s {sample.calls:8,} calls {sample.rss / MIB:8.1f} MiB"
            f" {sample.descriptors:4} descriptors {sample.threads:4} threads"
            f" {sample.tasks:4} tasks",
            flush=True,
        )

    async def _pause(self) -> None:
        """Samples with nothing under way."""
        self._may_ask.clear()
        await asyncio.sleep(_CALM_SECONDS)
        self._calm.append(await self._sample())
        self._may_ask.set()

    async def _sample(self) -> Sample:
        seconds = time.monotonic() - self._began
        return await asyncio.to_thread(self._watched.sample, seconds, self._total())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
