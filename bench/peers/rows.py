"""What the comparison says: each row, and whether Embercache is ahead in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

OURS = "Embercache"
_SAME = 1.05  # less is within what runs differ by

_REDIS = (
    "a hit is one command to a Redis on the same machine, whose protocol costs Python less than"
    " gRPC does; a Redis elsewhere adds its network to each hit"
)
_MAP = "a hit there is a look-up in a map of the caller's own process, which nobody else shares"
_TRITON = "its client does less with an answer, and the client is what limits here"
_HIT_WHY = {"GPTCache": _MAP, "RedisVL": _REDIS, "LangChain": _REDIS, "Triton": _TRITON}
_DECODER = "the model reads faster there"


@dataclass(frozen=True)
class Row:
    """A row: ``value`` of an object that a peer was measured as; None where it does not apply.

    ``why`` says, by peer, why it is ahead of Embercache, and ``otherwise`` of the rest.
    """

    title: str
    value: Callable[[object], float | None]
    more_is_better: bool = False
    unit: str = ""
    plotted: bool = False
    why: Mapping[str, str] = field(default_factory=dict)
    otherwise: str = "not explained yet"

    def shown(self, figures: object) -> str:
        """The value as the table has it."""
        value = self.value(figures)
        if value is None:
            return "–"  # noqa: RUF001 - the sign for nothing
        if self.unit == "%":
            return f"{value:.0%}"
        number = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
        return f"{number} {self.unit}".strip()


def verdict(row: Row, measured: Mapping[str, object]) -> str:
    """Whether Embercache is ahead of all others in this row, or who is ahead, how far, and why."""
    ours = row.value(measured[OURS])
    values = {name: row.value(each) for name, each in measured.items() if name != OURS}
    others = {name: value for name, value in values.items() if value is not None}
    if ours is None or not others:
        return "not compared: no other has it"
    ahead = {name: value for name, value in others.items() if _better(row, value, ours)}
    if ahead:
        return "; ".join(_behind(row, name, value, ours) for name, value in ahead.items())
    best = (max if row.more_is_better else min)(others, key=lambda name: others[name])
    if not _better(row, ours, others[best]):
        as_good = [name for name, value in others.items() if not _better(row, ours, value)]
        rest = "" if len(as_good) == len(others) else "; ahead of the others"
        return f"as good as {', '.join(as_good)}{rest}"
    return f"ahead of all; next is {best}{_by(others[best], ours)}"


def cells(row: Row, names: Sequence[str], measured: Mapping[str, object]) -> list[str]:
    """The row in the table; a peer that could not be had has no values."""
    return [row.title, *(row.shown(measured[n]) if n in measured else "n/a" for n in names)]


def _better(row: Row, one: float, other: float) -> bool:
    if row.unit == "%":
        return one > other if row.more_is_better else one < other
    if row.more_is_better:
        return one > other * _SAME
    return one * _SAME < other


def _behind(row: Row, name: str, value: float, ours: float) -> str:
    return f"**behind {name}**{_by(ours, value)}: {row.why.get(name, row.otherwise)}"


def _by(worse: float, better: float) -> str:
    low, high = sorted((worse, better))
    return f", {high / low:.1f}x" if low > 0 else ""


def _of(name: str) -> Callable[[object], float | None]:
    def value(figures: object) -> float | None:
        found: float | None = getattr(figures, name)
        return found

    return value


CACHES = (
    Row("hit, one text, p50", _of("hit_p50"), plotted=True, unit="ms", why=_HIT_WHY),
    Row("hit, one text, p99", _of("hit_p99"), unit="ms", why=_HIT_WHY),
    Row(
        "hits a second, 8 threads",
        _of("hits_per_second"),
        more_is_better=True,
        plotted=True,
        why=_HIT_WHY,
    ),
    Row("stored texts that are computed again", _of("hits_computed"), unit="%"),
    Row("64 texts, all stored", _of("batch_ms"), unit="ms", why=_HIT_WHY),
    Row(
        "64 texts, one of them new",
        _of("partial_ms"),
        plotted=True,
        unit="ms",
        otherwise="nearly all of it is the model's time for one text, which other load changes",
    ),
    Row("texts computed for that", _of("partial_computed")),
    Row(
        "computations: 200 callers, one new text",
        _of("stampede_computed"),
        plotted=True,
        otherwise="it happened to answer more of them from what was just stored",
    ),
    Row(
        "the last of them is answered after",
        _of("stampede_ms"),
        unit="ms",
        otherwise="200 threads of Python take most of it, and gRPC costs them more",
    ),
    Row("of them failed", _of("stampede_failed")),
    Row(
        "computations: 100 callers in each of two processes",
        _of("stampede_two"),
        otherwise="what is under way is known to one sidecar only; its processes came later",
    ),
    Row(
        "bytes in Redis for an entry",
        _of("redis_bytes"),
        plotted=True,
        otherwise="it keeps no header, checksum, tags or model version with the vector",
    ),
    Row(
        "old model's answers: model changed behind its name",
        _of("wrong_same_name"),
        plotted=True,
        unit="%",
    ),
    Row("the same, and the name too", _of("wrong_new_name"), unit="%"),
    Row(
        "Redis killed: cached texts answered",
        _of("outage_known"),
        more_is_better=True,
        unit="%",
    ),
    Row("Redis killed: new texts answered", _of("outage_new"), more_is_better=True, unit="%"),
    Row("Redis killed: a cached text, p50", _of("outage_ms"), unit="ms"),
    Row(
        "Redis killed: the slowest call",
        _of("outage_worst_ms"),
        unit="ms",
        otherwise="most of it is the model's time for one text, which other load changes",
    ),
)

MISSES = (
    Row(
        "texts a second, 100 in one call",
        _of("texts_per_second"),
        more_is_better=True,
        plotted=True,
        otherwise="it has no hop and no cache to look into before the model",
    ),
    Row(
        "one new text, p50",
        _of("one_ms"),
        plotted=True,
        unit="ms",
        otherwise="no hop, no cache to look into, and nothing to write back",
    ),
)

GENERATION = (
    Row(
        "first token, 1,000 new tokens",
        _of("cold_ms"),
        plotted=True,
        unit="ms",
        otherwise=_DECODER,
    ),
    Row(
        "first token, 900 of them just read",
        _of("same_beginning_ms"),
        plotted=True,
        unit="ms",
        otherwise=_DECODER,
    ),
    Row(
        "the same after another prompt",
        _of("other_between_ms"),
        plotted=True,
        unit="ms",
        otherwise="it keeps the whole state of a prompt, and does not cut it into blocks",
    ),
    Row("first token of a prompt asked before", _of("repeated_ms"), plotted=True, unit="ms"),
)
