"""The plan of a run: which loads, how long, how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.ghz.figures import Measured, Sample
from bench.ghz.tool import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bench.ghz.scenarios import Scenario
    from bench.ghz.servers import Line
    from bench.ghz.tool import Run

# So many calls are measured in any run.
_LEAST = 10
_RAMPED = ("embed-hot", "embed-mixed")


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    ``calls`` is the share of a scenario's calls that is used; a quarter of these is sent in closed
    loop. ``seconds`` is the length of a run at a fixed rate. ``points`` are the loads of a ramp, as
    shares of the throughput in closed loop.
    """

    rounds: int
    calls: float
    seconds: float
    points: Sequence[float]


FULL = Effort(rounds=3, calls=1.0, seconds=5.0, points=(0.2, 0.4, 0.6, 0.8))
QUICK = Effort(rounds=1, calls=0.2, seconds=1.0, points=(0.3, 0.6))
_CLOSED = 0.25


@dataclass(frozen=True)
class Results:
    """In closed loop, at a fixed rate, and at rates one after the other."""

    closed: list[Measured]
    fixed: list[Measured]
    ramp: list[Measured]


def measure(lines: Sequence[Line], effort: Effort) -> Results:
    """Runs every load, the rounds in turns."""
    closed: dict[Line, list[Sample]] = {line: [] for line in lines}
    fixed: dict[Line, list[Sample]] = {line: [] for line in lines if not line.scenario.bypass}
    for number in range(1, effort.rounds + 1):
        print(f"round {number} of {effort.rounds}", flush=True)
        for line, samples in closed.items():
            calls = calls_in_closed_loop(line.scenario, len(line.calls.messages))
            samples.append(_sample(line, calls))
        for line, samples in fixed.items():
            samples.append(_at_rate(line, line.scenario.settings["rps"], effort.seconds))
    in_closed_loop = _measured(closed)
    return Results(
        list(in_closed_loop.values()),
        list(_measured(fixed).values()),
        list(_ramp(in_closed_loop, effort)),
    )


def calls_in_closed_loop(scenario: Scenario, drawn: int) -> int:
    """How many calls of those that were drawn are sent in one run."""
    return max(round(drawn * _CLOSED), _least(scenario))


def calls_at_rate(scenario: Scenario, rate: float, seconds: float) -> int:
    """The same, of a run that lasts so long, but for what was not drawn."""
    return max(round(rate * seconds), _least(scenario))


def _least(scenario: Scenario) -> int:
    return int(scenario.settings["skipFirst"]) + _LEAST


def _ramp(closed: Mapping[Line, Measured], effort: Effort) -> Iterator[Measured]:
    """One run for each rate: ghz's own ramp has no quantiles of its steps.

    A hot scenario is sent the rates of its echo, which comes before it.
    """
    print("ramp", flush=True)
    top: dict[str, float] = {}
    for line, measured in closed.items():
        if line.scenario.name in _RAMPED:
            top.setdefault(line.scenario.name, measured.throughput)
    for point in effort.points:
        for line in closed:
            if (name := line.scenario.name) in top:
                sample = _at_rate(line, max(10, round(top[name] * point, -1)), effort.seconds)
                yield Measured(name, line.server.name, [sample])


def _measured(samples: Mapping[Line, list[Sample]]) -> dict[Line, Measured]:
    return {
        line: Measured(line.scenario.name, line.server.name, each) for line, each in samples.items()
    }


def _at_rate(line: Line, rate: float, seconds: float) -> Sample:
    return _sample(line, calls_at_rate(line.scenario, rate, seconds), round(rate))


def _sample(line: Line, calls: int, rate: int | None = None) -> Sample:
    # The data is not begun anew: what was to be new would not be.
    calls = min(calls, len(line.calls.messages))
    target = line.server.target
    if target is None:
        return Sample(*_run(line, calls, rate), Counter(), Counter())
    target.reset(line.scenario, line.calls)
    before = target.answered(line.scenario.kind)
    done, cpu = _run(line, calls, rate)
    answered = target.answered(line.scenario.kind) - before
    return Sample(done, cpu, answered, Counter(line.calls.tiers[:calls]))


def _run(line: Line, calls: int, rate: int | None) -> tuple[Run, float]:
    """The run, and the processor's seconds that it took the server."""
    before = line.server.cpu_seconds()
    done = run(line.scenario, line.server.address, calls, rate)
    return done, line.server.cpu_seconds() - before
