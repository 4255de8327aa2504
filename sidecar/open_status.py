"""Opens the listener for probes and metrics, and what its page shows."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from embercache._admin import stats as plain_stats

from sidecar.cache.breaker import open_breakers
from sidecar.config_values import all_values, is_secret, plain
from sidecar.hottest import HottestQueries
from sidecar.open_tiers import keep_running
from sidecar.telemetry.findings import (
    failing_calls,
    findings,
    left_alone,
    refused_by_quota,
    worst_first,
)
from sidecar.telemetry.history import STEP_SECONDS, History, Look, Step
from sidecar.transport.status import StatusListener
from sidecar.transport.status_page import StatusPage

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Mapping

    from embercache import Stats
    from prometheus_client import CollectorRegistry

    from sidecar.config import Settings
    from sidecar.open_services import Services
    from sidecar.open_tiers import Tiers
    from sidecar.telemetry.metrics import CallMetrics
    from sidecar.transport.certificate import ServerCertificate

T = TypeVar("T")

FRESH_SECONDS = 1.0
"""So long all who look are shown the same figures: to gather them keeps the event loop busy."""
_MOST_ROWS = 20
# Up to the last @, since passwords may have any signs; and a query, which may have keys.
_SECRETS_OF_URL = re.compile(r"(?<=://).*@|(?<=\?).*", re.DOTALL)
_CHANGES = ("Invalidate", "PublishEvents", "Flush")


async def open_status(
    settings: Settings,
    registry: CollectorRegistry,
    certificate: ServerCertificate | None,
    exits: contextlib.AsyncExitStack,
) -> tuple[StatusListener, StatusPage | None]:
    """The listener, which listens if it is set to, and its page if there is one.

    Raises `ListenError`.
    """
    server = settings.server
    page = StatusPage() if server.status_page else None
    status = StatusListener(server.metrics_address, registry, certificate, page)
    if server.metrics_address:
        await status.start()
        exits.push_async_callback(status.close)
    return status, page


def fill_page(
    page: StatusPage,
    settings: Settings,
    services: Services,
    tiers: Tiers,
    calls: CallMetrics,
    settle: Callable[[], None],
    is_ready: Callable[[], bool],
    exits: contextlib.AsyncExitStack,
) -> None:
    """Has the page show this sidecar. ``settle`` counts what the front door answered."""

    def look() -> Look:
        settle()
        return Look(
            stats=plain_stats(services.admin.collect(by_use=False)),
            durations={name: tuple(each.counts) for name, each in calls.durations().items()},
            failures=calls.failures(),
            invalidations=tiers.follower.applied if tiers.follower is not None else 0,
            breakers=open_breakers(),
        )

    history = History(look)
    keep_running(_keep(history), exits)
    hottest = HottestQueries(services.popular)
    shown = shown_settings(settings)
    # Counters of another process are not to be taken for a later state of these.
    process = secrets.token_hex(8)

    def gather() -> tuple[Stats, dict[str, Any]]:
        stats = plain_stats(services.admin.collect())
        return stats, _overview(history, stats)

    gathered = shared(gather, FRESH_SECONDS)

    async def data(after: int) -> Mapping[str, Any]:
        stats, overview = gathered()
        answer = {
            "state": "serving" if is_ready() else "draining",
            "process": process,
            "at": round(time.time() * 1000),
            **overview,
            "hottest": await hottest.read(stats),
            "step_seconds": STEP_SECONDS,
            "fields": Step._fields,
            "steps": history.since(after),
        }
        # What does not change is told once.
        return answer | {"settings": shown} if not after else answer

    page.data = data


def shared(
    make: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic
) -> Callable[[], T]:
    """As ``make``, which is called once in so many seconds at most: all share what it gave."""
    made: tuple[float, T] | None = None

    def current() -> T:
        nonlocal made
        if made is None or clock() - made[0] >= seconds:
            made = clock(), make()
        return made[1]

    return current


async def _keep(history: History) -> None:
    while True:
        await asyncio.sleep(STEP_SECONDS)
        history.take()


def _overview(history: History, current: Stats) -> dict[str, Any]:
    now, before = history.now, history.minute_ago
    methods = history.methods()
    failed: dict[str, int] = {}
    for method in methods:
        for code, count in method.failed.items():
            failed[code] = failed.get(code, 0) + count
    found = [
        *findings(current, before.stats),
        *left_alone(now.breakers),
        *failing_calls(
            failed,
            sum(method.calls for method in methods),
            refused_by_quota(now.stats, before.stats),
        ),
    ]
    stats = asdict(replace(current, usage=()))
    usage = sorted(current.usage, key=lambda each: -sum(each.answered.values()))
    stats["usage"] = [asdict(each) for each in usage[:_MOST_ROWS]]
    stats["quotas"] = sorted(stats["quotas"], key=lambda each: -each["refusals"])[:_MOST_ROWS]
    stats["semantic"] = stats["semantic"][:_MOST_ROWS]
    return {
        "findings": [asdict(each) for each in worst_first(found)],
        "stats": stats,
        "usage_rows": len(usage),
        "saved": {
            "seconds": sum(each.seconds_saved for each in usage),
            "money": sum(each.money_saved for each in usage),
            "tokens": sum(each.tokens_saved for each in usage),
        },
        "latency_ms": history.latency_ms(),
        "methods": [each._asdict() for each in methods],
        "breakers": dict(sorted(now.breakers.items())),
        "invalidations": {
            "heard": now.invalidations,
            "asked": {name: sum(now.durations[name]) for name in _CHANGES if name in now.durations},
        },
    }


def shown_settings(settings: Settings) -> list[dict[str, Any]]:
    """Every setting as `embercache config show` has it: no secret, nor what is in a file."""
    rows = []
    for setting, value in all_values(settings):
        if is_secret(setting):
            text = "set" if value.get_secret_value() else "not set"
            is_default = text == "not set"
        else:
            text = _without_secrets(plain(setting, value))
            is_default = value == setting.field.get_default(call_default_factory=True)
        meaning = setting.field.description
        rows.append(
            {"name": setting.path, "value": text, "meaning": meaning, "default": is_default}
        )
    return rows


def _without_secrets(text: str) -> str:
    """A value without the user, the password and the query of its URL."""
    if "://" not in text:
        return text
    return _SECRETS_OF_URL.sub(lambda found: "...@" if found[0].endswith("@") else "...", text)
