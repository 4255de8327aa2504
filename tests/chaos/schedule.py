"""What is done to which part and for how long: a function of the seed and the time there is.

Faults are in lanes. Lanes run side by side; in a lane, the next fault waits until the one before is
repaired, however long that takes. So of the sidecars one is always left alone, and of the encoders
too, unless the fault is of the pool as a whole.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.chaos.parts import ENCODERS, REDIS, SIDECARS, link
from tests.chaos.proxy import LINK_KINDS, WAYS, LinkFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

POOL = "pool"
"""All encoders at once."""

_SERVER_KINDS = ("kill", "freeze", "restart")
# What it takes to start a part again, which is not known beforehand.
_START_SECONDS = 3.0
_FAULTS_A_REST = 3


@dataclass(frozen=True)
class Fault:
    """``seconds`` after the fault before it was repaired, something is done to a part.

    ``kind`` is ``kill`` (SIGKILL), ``freeze`` (SIGSTOP) or ``restart`` (SIGTERM), or that of
    ``link``. It is repaired after ``lasts`` seconds.
    """

    after: float
    part: str
    kind: str
    lasts: float
    link: LinkFault | None = None

    def __str__(self) -> str:
        words = f"after {self.after:.1f} s {self.part}: {self.kind} for {self.lasts:.1f} s"
        if self.link is None:
            return words
        details = f", {self.link.way}, {self.link.share:.0%} of connections"
        return words + details + (f", {self.link.amount:g}" if self.link.amount else "")


@dataclass(frozen=True)
class _Lane:
    """Which kinds of faults, at which parts, and least and most seconds between two.

    Every so many there is a ``rest``, longer than what waits for a retry usually waits: calls that
    nothing excuses come between faults, most of them in rests.
    """

    parts: dict[str, Sequence[str]]
    pause: tuple[float, float]
    rest: tuple[float, float]

    def faults(self, rng: random.Random) -> Iterator[Fault]:
        """Every kind once in each round, in another order each time, at any of its parts."""
        number = 0
        while True:
            for kind in rng.sample(list(self.parts), len(self.parts)):
                number += 1
                rests = number % _FAULTS_A_REST == 0
                part = rng.choice(self.parts[kind])
                # Some longer than the bound of staleness, most shorter.
                lasts = rng.uniform(0.3, 3) if rng.random() < 0.75 else rng.uniform(3, 8)
                yield Fault(
                    after=rng.uniform(*(self.rest if rests else self.pause)),
                    part=part,
                    kind=kind.removeprefix(f"{POOL}: "),
                    lasts=min(lasts, 3.0) if part == POOL else lasts,
                    link=_link_fault(rng, kind) if part.startswith("link ") else None,
                )


def _lanes() -> dict[str, _Lane]:
    to_encoders = [link(sidecar, encoder) for sidecar in SIDECARS for encoder in ENCODERS]
    encoders = (
        dict.fromkeys(_SERVER_KINDS, ENCODERS)
        | dict.fromkeys(LINK_KINDS, to_encoders)
        | {f"{POOL}: {kind}": (POOL,) for kind in ("kill", "freeze")}
    )
    lanes = {
        "sidecars": _Lane(dict.fromkeys(_SERVER_KINDS, SIDECARS), pause=(3, 8), rest=(3, 8)),
        "encoders": _Lane(encoders, pause=(2.5, 4), rest=(5, 8)),
        "redis": _Lane({"kill": (REDIS,), "freeze": (REDIS,)}, pause=(15, 35), rest=(15, 35)),
    }
    for sidecar in SIDECARS:
        name = link(sidecar, REDIS)
        lanes[name] = _Lane(dict.fromkeys(LINK_KINDS, (name,)), pause=(5, 8), rest=(9, 12))
    return lanes


def plan(seed: int, seconds: float) -> dict[str, list[Fault]]:
    """The faults of each lane. The same for the same arguments."""
    return {
        name: list(_until(seconds, lane.faults(random.Random(f"{seed} {name}"))))
        for name, lane in _lanes().items()
    }


def _link_fault(rng: random.Random, kind: str) -> LinkFault:
    amounts: dict[str, Callable[[], float]] = {
        # Redis may take 0.5 s.
        "latency": lambda: round(rng.choice([0.02, 0.05, 0.15, 0.4]), 3),
        "slow drip": lambda: rng.choice([200, 2_000, 20_000]),
    }
    (known,) = (each for each in LINK_KINDS if each == kind)
    return LinkFault(
        kind=known,
        way=rng.choice(WAYS),
        share=rng.choice([0.5, 1.0]),
        amount=amounts.get(kind, lambda: 0.0)(),
    )


def _until(seconds: float, faults: Iterator[Fault]) -> Iterator[Fault]:
    """Those that begin before the time is over."""
    for fault in faults:
        seconds -= fault.after
        if seconds < 0:
            return
        yield fault
        seconds -= fault.lasts
        if fault.kind in ("kill", "restart"):
            seconds -= _START_SECONDS
