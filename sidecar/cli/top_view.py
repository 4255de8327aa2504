"""What ``embercache top`` shows of the last answers of a sidecar, in lines and tables."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from sidecar.cli.stats_tables import HITS, count, share, time_in_brief
from sidecar.telemetry.findings import findings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embercache import GeneratorStats, ModelStats, Stats, Tier, UsageStats
    from rich.console import RenderableType

_MINUTE = 60.0
_MOST_POINTS = 500
_MOST_ROWS = 10
# Below this many columns of the terminal, only what matters most is shown.
_WIDE = 76
_NARROWEST = 24
_BARS = " ▁▂▃▄▅▆▇█"
_STYLES = {"critical": "bold red", "warning": "bold yellow", "note": "bold"}
_GONE = "it has stopped, restarts, or cannot be reached"
_VERDICTS = {"critical": "■ failing", "warning": "▲ needs attention", "note": "● healthy"}


class Point(NamedTuple):
    """What came between two looks; ``hit_rate`` is None if that was nothing."""

    hit_rate: float | None
    inputs_a_second: float


class Looks:
    """The answers of a sidecar so far. ``clock`` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.points: deque[Point] = deque(maxlen=_MOST_POINTS)
        self.now: Stats | None = None
        self.before: Stats | None = None
        self._minute: deque[tuple[float, Stats]] = deque()
        self._answered_at = clock()
        self._is_lost = False
        self.reason = ""

    @property
    def lost_for(self) -> float | None:
        """Seconds since the last answer, if the last call got none."""
        return self._clock() - self._answered_at if self._is_lost else None

    @property
    def minute_ago(self) -> Stats | None:
        """The answer of a minute ago, or the first one of this life of the sidecar."""
        return self._minute[0][1] if self._minute else None

    def take(self, stats: Stats) -> None:
        """Takes note of an answer. If the sidecar was started anew, what was before counts not."""
        now = self._clock()
        self._answered_at, self._is_lost = now, False
        if self.now is not None and stats.uptime_seconds < self.now.uptime_seconds:
            self._minute.clear()
            self.now = None
        self.before, self.now = self.now, stats
        # Rows of namespaces can be many, and nothing asks for old ones.
        self._minute.append((now, replace(stats, usage=())))
        while len(self._minute) > 1 and now - self._minute[1][0] >= _MINUTE:
            self._minute.popleft()
        if self.before is not None:
            self.points.append(_point(self.before, stats))

    def miss(self, reason: str = _GONE) -> None:
        """Takes note of a call that got no answer, and why that may be."""
        self._is_lost, self.reason = True, reason


def view(looks: Looks, address: str, width: int, keys: str = "") -> RenderableType:
    """Everything, for a terminal of so many columns."""
    return Group(*_view(looks, address, max(width, _NARROWEST), keys))


def _view(looks: Looks, address: str, width: int, keys: str) -> Iterator[RenderableType]:
    now = looks.now
    if now is None or looks.minute_ago is None:
        yield f"no answer from {address} yet"
        return
    uptime = timedelta(seconds=round(now.uptime_seconds))
    about = f"Embercache {now.version} at {address}, up {uptime}"
    yield Text(about, style="dim", overflow="ellipsis", no_wrap=True)
    yield from _verdict(looks, now, looks.minute_ago, keys)
    yield ""
    yield from _glance(looks, now, width)
    yield ""
    yield _tiers(now, looks.before, width)
    if now.models or now.generators:
        yield ""
        yield _models(now, looks.before, width)
    if now.usage:
        yield ""
        yield _worth(now.usage, width)


def _verdict(looks: Looks, now: Stats, minute_ago: Stats, keys: str) -> Iterator[RenderableType]:
    if (lost := looks.lost_for) is not None:
        yield Text(
            f"■ no answer for {lost:.0f} s: {looks.reason}; trying again. What is below is old."
            f"   {keys}",
            style=_STYLES["critical"],
        )
        return
    found = findings(now, minute_ago)
    worst = found[0].level if found else "note"
    style = "bold green" if worst == "note" else _STYLES[worst]
    yield Text.assemble((_VERDICTS[worst], style), f"   Redis: {_redis(now)}   {keys}")
    for each in found:
        yield Text.assemble((f"  {each.title}. ", _STYLES[each.level]), each.meaning)
        yield Text(f"  → {each.action}")


def _redis(stats: Stats) -> str:
    words = {"off": "none", "up": "up", "down": "left alone"}
    return words.get(stats.warm.state, "not known")


def _glance(looks: Looks, now: Stats, width: int) -> Iterator[RenderableType]:
    """The hit rate and the inputs a second, as numbers and as lines that end now."""
    answered = {name: tier.answered for name, tier in now.tiers.items()}
    since_start = share(_hits(answered), sum(answered.values()))
    last = looks.points[-1] if looks.points else Point(None, 0.0)
    rate = "-" if last.hit_rate is None else f"{last.hit_rate:.1%}"
    shown = list(looks.points)[-max(8, width - 34) :]
    top = max((point.inputs_a_second for point in shown), default=0.0)
    yield _line("hit rate", rate, f"{since_start} since start", [each.hit_rate for each in shown])
    yield _line(
        "inputs/s",
        f"{last.inputs_a_second:,.0f}",
        f"most {top:,.0f}",
        [each.inputs_a_second / top if top else 0.0 for each in shown],
    )
    seconds = sum(each.seconds_saved for each in now.usage)
    money = sum(each.money_saved for each in now.usage)
    saved = f"saved    {time_in_brief(seconds)} of computing"
    yield f"{saved}, {money:,.2f} of money" if money else saved


def _line(name: str, value: str, more: str, shares: Sequence[float | None]) -> Text:
    bars = "".join(
        " " if each is None else _BARS[max(1, round(each * (len(_BARS) - 1)))] for each in shares
    )
    text = Text(no_wrap=True, overflow="crop")
    return (
        text.append(f"{name:8} ")
        .append(f"{value:>8}", style="bold")
        .append(f"  {more:19}")
        .append(bars, style="cyan")
    )


def _tiers(now: Stats, before: Stats | None, width: int) -> Table:
    wide = width >= _WIDE
    more = ("entries", "size", "of", "evictions", "corrupt") if wide else ()
    table = _table("tier", "a second", "share", "answered", *more)
    new = _new(now, before)
    for name, tier in now.tiers.items():
        row = [name, _a_second(new[name], now, before), share(new[name], sum(new.values()))]
        row.append(count(tier.answered))
        if wide:
            sizes = (tier.bytes, tier.capacity_bytes)
            row.append(count(tier.entries))
            row += [decimal(size) if size else "-" for size in sizes]
            row += [count(tier.evictions), count(tier.corrupt)]
        table.add_row(*row)
    return table


def _models(now: Stats, before: Stats | None, width: int) -> Table:
    more = ("computed", "refused", "late") if width >= _WIDE else ()
    table = _table("model", "waiting", "wait", "a second", *more)
    earlier: dict[str, int] = {}
    if before is not None:
        earlier |= {each.name: each.computed for each in before.models}
        earlier |= {each.name: each.generated for each in before.generators}
    rows: list[tuple[ModelStats | GeneratorStats, int, float]] = []
    rows += [(each, each.computed, each.queue_seconds) for each in now.models]
    rows += [(each, each.generated, 0.0) for each in now.generators]
    for each, done, wait in rows:
        late = each.refused_late + each.dropped_late
        row = [count(each.queued), f"{wait:.1f} s" if wait else "-"]
        row.append(_a_second(done - earlier.get(each.name, done), now, before))
        if more:
            row += [count(done), count(each.shed - each.refused_late), count(late)]
        table.add_row(Text(each.name, overflow="ellipsis", no_wrap=True), *row)
    return table


def _worth(usage: Sequence[UsageStats], width: int) -> Table:
    """The busiest, by kind, namespace and model."""
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("worth", "namespace", "model") if wide else ("worth", "namespace"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    numbers = ("hits", "a hit", "computing", "saved", "money") if wide else ("hits", "saved")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    busiest = sorted(usage, key=lambda each: -sum(each.answered.values()))
    for each in busiest[:_MOST_ROWS]:
        names = (each.kind, Text(each.namespace))
        hits = share(_hits(each.answered), sum(each.answered.values()))
        saved = time_in_brief(each.seconds_saved)
        if wide:
            times = (f"{ms:,.2f} ms" if ms else "-" for ms in (each.hit_ms, each.compute_ms))
            money = f"{each.money_saved:,.2f}" if each.money_saved else "-"
            table.add_row(*names, Text(each.model), hits, *times, saved, money)
        else:
            table.add_row(*names, hits, saved)
    return table


def _table(name: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(name, overflow="ellipsis", no_wrap=True)
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def _point(before: Stats, now: Stats) -> Point:
    new = _new(now, before)
    seconds = now.uptime_seconds - before.uptime_seconds
    answered = sum(new.values())
    rate = _hits(new) / answered if answered else None
    return Point(rate, answered / seconds if seconds else 0.0)


def _new(now: Stats, before: Stats | None) -> dict[Tier, int]:
    """What each tier answered since; since the start, if nothing was asked before."""
    return {
        name: tier.answered - (before.tiers[name].answered if before is not None else 0)
        for name, tier in now.tiers.items()
    }


def _a_second(new: int, now: Stats, before: Stats | None) -> str:
    seconds = now.uptime_seconds - before.uptime_seconds if before is not None else 0.0
    return f"{new / seconds:,.1f}" if new and seconds else "-"


def _hits(answered: Mapping[Tier, int]) -> int:
    return sum(number for name, number in answered.items() if name in HITS)
