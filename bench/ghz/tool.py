"""Runs ghz, and reads what it found.

ghz measures a call from when it is sent. At a fixed rate, one that should have been sent while ghz
was busy is sent late, and its latency leaves the wait out: coordinated omission. Its report says
when each call ended, so the wait is worked out here.
"""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.load import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bench.ghz.scenarios import Scenario

ROOT = Path(__file__).parents[2]
GHZ = ROOT / ".tools" / "bin" / "ghz"
# Longest run of ghz in seconds; beyond it something hangs.
_HANG = 120.0


@dataclass(frozen=True)
class Run:
    """Calls in the order in which they were sent, without the first ones, which connect.

    ``started`` and ``ended`` are nanoseconds, ``succeeded`` is for each whether it did.
    ``statuses`` are those of all calls, ``cpu_seconds`` is what ghz took for them.
    """

    rate: int | None
    started: NDArray[np.int64]
    ended: NDArray[np.int64]
    succeeded: NDArray[np.bool_]
    statuses: Counter[str]
    cpu_seconds: float

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """Of the calls that succeeded, as ghz has it: from when they were sent."""
        latency: NDArray[np.float64] = (self.ended - self.started) / 1e6
        return latency[self.succeeded]

    @property
    def late_ms(self) -> NDArray[np.float64]:
        """Of the same calls: how much later than planned each was sent; zeros without a rate."""
        if self.rate is None:
            return np.zeros(int(self.succeeded.sum()))
        due = np.arange(len(self.started)) * (1e9 / self.rate)
        late: NDArray[np.float64] = (self.started - self.started[0] - due) / 1e6
        # The schedule is at least as early as the call that was sent soonest.
        return late[self.succeeded] - late.min()

    @property
    def sent_per_second(self) -> float:
        """The rate that was reached."""
        return float((len(self.started) - 1) / (self.started[-1] - self.started[0]) * 1e9)

    @property
    def answered_per_second(self) -> float:
        """Throughput of calls that succeeded, until the last answer."""
        return float(self.succeeded.sum() / (self.ended.max() - self.started[0]) * 1e9)

    @property
    def unanswered(self) -> int:
        """Calls without an answer at the moment when the last one was sent."""
        return int((self.ended > self.started[-1]).sum())


def ghz() -> Path:
    """The program; raises `LoadError` if it is not there."""
    if not GHZ.is_file():
        raise LoadError(f"ghz is not at {GHZ.relative_to(ROOT)}: run make tools")
    return GHZ


def run(scenario: Scenario, host: str, calls: int, rate: int | None) -> Run:
    """Sends the first calls of a scenario, at a rate a second or, without one, in closed loop.

    Raises `LoadError` if ghz gives up.
    """
    with tempfile.TemporaryDirectory(prefix="embercache-ghz-") as folder:
        output = Path(folder, "report.json")
        command = [str(ghz()), f"--config={scenario.file}", f"--total={calls}", "--skipFirst=0"]
        command += [f"--rps={rate or 0}", "--async" if rate else "--no-async"]
        command += ["--format=json", f"--output={output}", host]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            # In UTC its times end in Z.
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "TZ": "UTC"},
                capture_output=True,
                text=True,
                timeout=_HANG,
            )
        except subprocess.TimeoutExpired:
            raise LoadError(f"ghz is still busy with {scenario.name} after {_HANG:.0f} s") from None
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise LoadError(f"ghz failed in {scenario.name}: {done.stderr.strip()}")
        report = json.loads(output.read_text("utf-8"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return read(report["details"], scenario.settings["skipFirst"], rate, cpu)


def read(
    details: Sequence[Mapping[str, Any]], skip: int, rate: int | None, cpu_seconds: float
) -> Run:
    """A run from the details of a report; ``skip`` calls are left out, those sent first.

    Raises `LoadError` if there is nothing to be measured.
    """
    times = [each["timestamp"].removesuffix("Z") for each in details]
    ended = np.array(times, "datetime64[ns]").astype(np.int64)
    started = ended - np.array([each["latency"] for each in details], np.int64)
    order = np.argsort(started, kind="stable")[skip:]
    if len(order) < 2:
        raise LoadError(f"{len(details)} calls are too few if the first {skip} are left out")
    succeeded = np.array([each["status"] == "OK" for each in details])
    statuses = Counter(each["status"] for each in details)
    if not succeeded[order].any():
        raise LoadError(f"of {len(order)} calls none succeeded: {dict(statuses)}")
    return Run(rate, started[order], ended[order], succeeded[order], statuses, cpu_seconds)


def installed_version() -> str:
    """The version that Go has written into the binary: ghz itself does not know."""
    found = re.search(rb"\tgithub\.com/bojand/ghz\t(v[0-9.]+)", ghz().read_bytes())
    return found[1].decode() if found else "of unknown version"
