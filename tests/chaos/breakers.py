"""When a sidecar left Redis alone: when its log says so, and no longer than it may.

What a log says alone is no excuse: a breaker that stays open for ever would excuse everything. So
`may_be_open` ends with the longest that `sidecar.cache.breaker.Breaker` can wait after an outage.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Interval = tuple[float, float]

FIRST, LONGEST = 0.25, 15.0
"""The back-off of the breakers of Redis, in seconds."""
PROBE = 2.0
"""The most that a probe of Redis takes."""
CAUSES = 5.0
"""For how long after an outage it can open a breaker: the longest operation, a write."""
# Two cores, on which everything runs at once.
_SLACK = 0.5
_BREAKER = b"circuit breaker"


@dataclass
class Episode:
    """From the opening of a breaker, for a ``reason``, to its closing."""

    opened: float
    closed: float = math.inf
    reason: str = field(default="", compare=False)


def may_be_open(episodes: Sequence[Episode], outages: Sequence[Interval]) -> list[Interval]:
    """When a breaker of one process may have refused calls.

    The back-off before a probe is twice that before the last one, and what is waited is at least
    half of it. So before a wait ``b`` there were waits of ``first / 2 + first + ... + b / 4``,
    which is ``(b - first) / 2``: an outage of ``d`` seconds leads to no wait longer than ``first +
    2 * d``. A probe that began in the outage may fail yet, and the next has to succeed. The first
    back-off is that of the last episode doubled if that was over less than `LONGEST` ago. Ordinary
    calls must succeed between episodes, as they do where many clients call.
    """
    allowed = []
    backoff, closed = 0.0, -math.inf
    for episode in episodes:
        lasted = episode.opened - closed > LONGEST
        first = FIRST if lasted else min(LONGEST, 2 * backoff)
        ends = [
            max(end, episode.opened) + longest_recovery(end - episode.opened, first)
            for start, end in outages
            if start < episode.closed and end > episode.opened - CAUSES
        ]
        if ends:
            allowed.append((episode.opened, min(episode.closed, max(ends))))
        # The waits before the last and the last one: as much, with the last one in it.
        backoff = min(LONGEST, episode.closed - episode.opened + first / 2)
        closed = episode.closed
    return allowed


def longest_recovery(outage: float, first: float) -> float:
    """After so many seconds of outage with an open breaker, how long it may stay open."""
    return min(LONGEST, first + 2 * max(0.0, outage)) + 2 * PROBE + _SLACK


@dataclass
class _Log:
    """What was read of one log: that of one process."""

    read: int = 0
    began: float = math.inf
    episodes: dict[str, list[Episode]] = field(default_factory=lambda: defaultdict(list))


class BreakerLog:
    """The episodes of all breakers, as the logs of the sidecars tell.

    ``logs`` gives the logs of the processes of a sidecar, the first one first.
    """

    def __init__(self, logs: Callable[[str], Sequence[Path]]) -> None:
        self._logs = logs
        self._known: dict[Path, _Log] = defaultdict(_Log)

    def episodes(self, sidecar: str, service: str) -> list[list[Episode]]:
        """Of each process of the sidecar."""
        paths = self._logs(sidecar)
        for path in paths:
            self._read(path)
        for path, next_path in pairwise(paths):
            # What is open ends with the process, at the latest when the next one speaks.
            for episodes in self._known[path].episodes.values():
                for one in episodes:
                    one.closed = min(one.closed, self._known[next_path].began)
        return [list(self._known[path].episodes[service]) for path in paths]

    def _read(self, path: Path) -> None:
        log = self._known[path]
        for line in _new_lines(path, log):
            if log.began < math.inf and _BREAKER not in line:
                continue
            try:
                event = json.loads(line)
                moment = datetime.fromisoformat(event["timestamp"]).timestamp()
            except (ValueError, KeyError, TypeError):
                continue  # no line of the sidecar's own
            log.began = min(log.began, moment)
            episodes = log.episodes[event.get("service", "")]
            match event.get("event"):
                case "circuit breaker opened":
                    episodes.append(Episode(moment, reason=event.get("reason", "")))
                case "circuit breaker closed" if episodes:
                    episodes[-1].closed = moment


def _new_lines(path: Path, log: _Log) -> Iterator[bytes]:
    """Those that are whole and were not read yet."""
    if not path.exists() or path.stat().st_size == log.read:
        return
    with path.open("rb") as file:
        file.seek(log.read)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    log.read += len(whole)
    yield from whole.splitlines()
