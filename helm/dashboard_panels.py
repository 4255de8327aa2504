"""The panels of the dashboard, row by row."""

from __future__ import annotations

from typing import Any

_CHOSEN = 'namespace=~"$namespace", pod=~"$pod"'
# The encoder pool has the same metrics; what it computes for sidecars are misses of theirs.
_SIDECARS = f'{_CHOSEN}, component!="encoder"'
_HITS = 'tier=~"hot|disk|warm"'
_WINDOW = "[$__rate_interval]"


def _rate(metric: str, by: str = "", more: str = "", where: str = _SIDECARS) -> str:
    """The rate of a counter a second, summed up."""
    labels = ", ".join(filter(None, (where, more)))
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{labels}}}{_WINDOW}))"


def _sum(metric: str, by: str = "", where: str = _SIDECARS, of: str = "sum") -> str:
    return f"{of}{f' by ({by})' if by else ''} ({metric}{{{where}}})"


def _share(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def _quantile(share: float, histogram: str, by: str, where: str) -> str:
    buckets = _rate(f"{histogram}_bucket", f"le, {by}" if by else "le", where=where)
    return f"histogram_quantile({share:g}, {buckets})"


def _graph(
    title: str, unit: str, queries: dict[str, str], description: str = "", **how: bool
) -> dict[str, Any]:
    """A graph over time; ``queries`` are by their legends."""
    shape = {"type": "timeseries", "stacked": False, "exemplars": False, **how}
    return {
        "title": title,
        "unit": unit,
        "queries": queries,
        "description": description,
        **shape,
    }


def _stat(title: str, unit: str, query: str, description: str = "") -> dict[str, Any]:
    """A single number."""
    return _graph(title, unit, {"": query}, description) | {"type": "stat"}


_ANSWERED = "embercache_items_answered_total"
_USED = "embercache_usage_items_total"
_FAILED = "embercache_calls_failed_total"
_CALLS = "embercache_call_seconds_count"

_OVERVIEW = [
    _stat("Hit rate", "percentunit", _share(_rate(_ANSWERED, more=_HITS), _rate(_ANSWERED))),
    _stat("Items a second", "ops", _rate(_ANSWERED)),
    _stat(
        "Calls that fail",
        "percentunit",
        f"({_rate(_FAILED)} or vector(0)) / ({_rate(_CALLS)} + ({_rate(_FAILED)} or vector(0)))",
    ),
    _stat("Slowest 1 % of calls", "s", _quantile(0.99, "embercache_call_seconds", "", _SIDECARS)),
    _stat(
        "Time saved by pods running now, since their start",
        "s",
        _sum("embercache_usage_seconds_saved"),
        "What pods that have ended saved is not in it.",
    ),
    _stat(
        "Money saved by pods running now, since their start",
        "short",
        _sum("embercache_usage_money_saved"),
        "At the prices that are set. What pods that have ended saved is not in it.",
    ),
]

_HIT_RATES = [
    _graph(
        "Share of each tier",
        "percentunit",
        {
            "{{tier}}": _share(
                _rate(_ANSWERED, "tier"), f"ignoring(tier) group_left {_rate(_ANSWERED)}"
            )
        },
        "Of all items that were answered; computed are the misses.",
        stacked=True,
    ),
    _graph("Items by tier", "ops", {"{{tier}}": _rate(_ANSWERED, "tier")}, stacked=True),
    _graph(
        "Hit rate by kind",
        "percentunit",
        {"{{kind}}": _share(_rate(_USED, "kind", _HITS), _rate(_USED, "kind"))},
    ),
    _graph(
        "Hit rate by namespace of the cache",
        "percentunit",
        {
            "{{exported_namespace}}": _share(
                _rate(_USED, "exported_namespace", _HITS), _rate(_USED, "exported_namespace")
            )
        },
    ),
    _graph(
        "Calls answered whole from memory",
        "ops",
        {"{{namespace}}": _rate("embercache_response_hits_total", "namespace")},
        "Without looking at their items.",
    ),
    _graph(
        "Semantic answers",
        "ops",
        {"{{outcome}}": _rate("embercache_semantic_queries_total", "outcome")},
        "Queries for which the answer to a similar one was looked for.",
        stacked=True,
    ),
]

_SAVED = [
    _graph(
        "Time saved by pods running now, since their start",
        "s",
        {"{{kind}}": _sum("embercache_usage_seconds_saved", "kind")},
        "What pods that have ended saved is not in it.",
        stacked=True,
    ),
    _graph(
        "Money saved by pods running now, since their start",
        "short",
        {"{{kind}}": _sum("embercache_usage_money_saved", "kind")},
        "At the prices that are set. What pods that have ended saved is not in it.",
        stacked=True,
    ),
    _graph(
        "Tokens that no model had to read or generate",
        "ops",
        {"{{kind}}": _rate("embercache_usage_tokens_saved_total", "kind")},
        stacked=True,
    ),
    _graph(
        "Items that end with an error",
        "ops",
        {"{{kind}}": _rate("embercache_usage_failed_total", "kind")},
    ),
]

_LATENCY = [
    _graph(
        "Half of the calls take less than",
        "s",
        {"{{method}}": _quantile(0.5, "embercache_call_seconds", "method", _SIDECARS)},
        exemplars=True,
    ),
    _graph(
        "99 % of the calls take less than",
        "s",
        {"{{method}}": _quantile(0.99, "embercache_call_seconds", "method", _SIDECARS)},
        exemplars=True,
    ),
    _graph("Calls that end well", "reqps", {"{{method}}": _rate(_CALLS, "method")}),
    _graph(
        "Calls that fail",
        "reqps",
        {"{{method}} {{code}}": _rate(_FAILED, "method, code")},
        "RESOURCE_EXHAUSTED: the model cannot keep up. CANCELLED: the caller went away.",
    ),
]

_REDIS = [
    _graph(
        "Sidecars that use Redis",
        "percentunit",
        {"{{namespace}}": _sum("embercache_redis_up", "namespace", of="avg")},
        "The others leave it alone after failures, and do without.",
    ),
    _graph(
        "Lookups",
        "ops",
        {
            "failed or too late": _rate("embercache_redis_errors_total"),
            "not sent, it is down": _rate("embercache_redis_skipped_total"),
            "entries not written": _rate("embercache_redis_writes_dropped_total"),
        },
    ),
    _graph(
        "Memory",
        "bytes",
        {
            "used": _sum("embercache_redis_memory_bytes", of="max"),
            "limit": _sum("embercache_redis_memory_limit_bytes", of="max"),
        },
        "As Redis tells; no limit is 0.",
    ),
    _graph(
        "Time since invalidations were heard of",
        "s",
        {"{{namespace}}": _sum("embercache_invalidations_heard_seconds", "namespace", of="max")},
        "Of the sidecar that waits longest. Above a few seconds, it does not reach Redis.",
    ),
]

_MEMORY = [
    _graph(
        "Held by tier",
        "bytes",
        {
            "{{tier}}": _sum("embercache_bytes", "tier"),
            "{{tier}}, room": _sum("embercache_capacity_bytes", "tier"),
        },
    ),
    _graph("Entries by tier", "short", {"{{tier}}": _sum("embercache_entries", "tier")}),
    _graph(
        "Entries that went",
        "ops",
        {
            "{{tier}}, for want of room": _rate("embercache_evictions_total", "tier"),
            "{{tier}}, too old": _rate("embercache_expirations_total", "tier"),
        },
    ),
    _graph(
        "Faults",
        "ops",
        {
            "{{tier}}, corrupt": _rate("embercache_corrupt_values_total", "tier"),
            "disk, failed": _rate("embercache_disk_errors_total"),
            "disk, not written": _rate("embercache_disk_writes_dropped_total"),
        },
    ),
]

_BY_MODEL = "component, model"
_MODEL = "{{component}} {{model}}"


def _of_model(counter: str) -> str:
    """The rate of a model's counter, also in the encoder pool."""
    return _rate(counter, _BY_MODEL, where=_CHOSEN)


_MODELS = [
    _graph(
        "Inputs that wait", "short", {_MODEL: _sum("embercache_model_queued", _BY_MODEL, _CHOSEN)}
    ),
    _graph("Inputs computed", "ops", {_MODEL: _of_model("embercache_model_inputs_total")}),
    _graph(
        "Inputs in a run of the model",
        "short",
        {
            _MODEL: _share(
                _of_model("embercache_model_inputs_total"),
                _of_model("embercache_model_batches_total"),
            )
        },
    ),
    _graph(
        "Tokens",
        "ops",
        {
            f"{_MODEL}, read": _of_model("embercache_model_tokens_total"),
            f"{_MODEL}, padding": _of_model("embercache_model_padding_tokens_total"),
        },
    ),
    _graph(
        "Inputs not computed",
        "ops",
        {
            f"{_MODEL}, refused": _of_model("embercache_model_shed_total"),
            f"{_MODEL}, nobody waits": _of_model("embercache_model_abandoned_total"),
        },
    ),
]

_GENERATORS = [
    _graph(
        "Tokens a second of work",
        "ops",
        {
            f"{_MODEL}, {stage}": _share(
                _of_model(f"embercache_generator_{stage}_tokens_total"),
                _of_model(f"embercache_generator_{stage}_seconds_total"),
            )
            for stage in ("prefill", "decode")
        },
    ),
    _graph(
        "Generations",
        "short",
        {
            f"{_MODEL}, {state}": _sum(f"embercache_generator_{state}", _BY_MODEL, _CHOSEN)
            for state in ("active", "queued")
        },
    ),
    _graph(
        "Answers",
        "ops",
        {
            f"{_MODEL}, {outcome}": _of_model(f"embercache_generator_{outcome}_total")
            for outcome in ("generated", "shed", "abandoned")
        },
    ),
    _graph(
        "Tokens of prompts that were kept",
        "ops",
        {"{{tier}}": _rate("embercache_prefix_reused_tokens_total", "tier", where=_CHOSEN)},
        stacked=True,
    ),
    _graph(
        "Keys and values",
        "bytes",
        {
            f"{_MODEL}, held": _sum("embercache_prefix_bytes", _BY_MODEL, _CHOSEN),
            f"{_MODEL}, room": _sum("embercache_prefix_capacity_bytes", _BY_MODEL, _CHOSEN),
        },
    ),
    _graph(
        "Blocks pushed out, prompts not worth loading",
        "ops",
        {
            f"{_MODEL}, pushed out": _of_model("embercache_prefix_evictions_total"),
            f"{_MODEL}, not worth it": _of_model("embercache_prefix_not_worth_loading_total"),
        },
    ),
]

_PROTECTION = [
    _graph(
        "Values that no sidecar has sealed for where they were",
        "ops",
        {
            "{{tier}} {{what}}, {{reason}}": _rate(
                "embercache_forged_values_total", "tier, what, reason", where=_CHOSEN
            )
        },
        "unknown_key: keys were changed, or sidecars have different ones. Others: somebody else"
        " writes there.",
    ),
    _graph(
        "Calls refused by quotas",
        "ops",
        {
            "{{component}} {{exported_namespace}}, {{quota}}": _rate(
                "embercache_quota_refusals_total",
                "component, exported_namespace, quota",
                where=_CHOSEN,
            )
        },
        "By namespace of the cache.",
    ),
    _graph(
        "Inputs and generations that would come too late",
        "ops",
        {
            f"{_MODEL}, {what} {outcome}": _of_model(f"embercache_{kind}_{field}_late_total")
            for kind, what in (("model", "inputs"), ("generator", "generations"))
            for field, outcome in (("refused", "refused"), ("dropped", "dropped from the queue"))
        },
        "After the deadlines of their callers.",
    ),
    _graph(
        "Pods that leave something alone after failures",
        "short",
        {
            "{{component}}, {{upstream}}": _sum(
                "embercache_breaker_open", "component, upstream", _CHOSEN
            )
        },
    ),
    _graph(
        "Time until the first certificate ends",
        "s",
        {
            "{{component}}": _sum(
                "embercache_certificate_expiry_timestamp_seconds", "component", _CHOSEN, "min"
            )
            + " - time()"
        },
        "Of those that the sidecars and encoders listen with.",
    ),
]

_INJECTOR_PODS = 'component="injector"'
_INJECTOR = [
    _graph(
        "Pods",
        "ops",
        {
            "{{outcome}}": _rate(
                "embercache_injector_requests_total", "outcome", where=_INJECTOR_PODS
            )
        },
        "failed: the pod asked for a sidecar and came up without one.",
    ),
    _graph(
        "99 % of the answers take less than",
        "s",
        {"": _quantile(0.99, "embercache_injector_request_seconds", "", _INJECTOR_PODS)},
    ),
    _graph(
        "Time until the certificate ends",
        "s",
        {
            "{{pod}}": "embercache_injector_certificate_expiry_timestamp_seconds"
            f"{{{_INJECTOR_PODS}}} - time()"
        },
    ),
    _graph(
        "Failures",
        "ops",
        {
            "new certificate": _rate(
                "embercache_injector_certificate_failures_total", where=_INJECTOR_PODS
            ),
            "versions of the kubelets": _rate(
                "embercache_injector_node_failures_total", where=_INJECTOR_PODS
            ),
        },
    ),
]

ROWS = {
    "Overview": _OVERVIEW,
    "Hits": _HIT_RATES,
    "Saved": _SAVED,
    "Calls": _LATENCY,
    "Redis": _REDIS,
    "Memory and disk": _MEMORY,
    "Models and the encoder pool": _MODELS,
    "Generators": _GENERATORS,
    "Protection": _PROTECTION,
    "Injector": _INJECTOR,
}
