"""Monitors, alerts and the dashboard ask for what is there, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from embercache.v1 import cache_pb2, common_pb2
from prometheus_client import CollectorRegistry

from sidecar.cache.breaker import Breaker
from sidecar.injector import annotations
from sidecar.injector.container import METRICS_PORT_NAME
from sidecar.injector.metrics import InjectorMetrics
from sidecar.telemetry.metrics import CallMetrics, StatsCollector
from sidecar.telemetry.reload_metrics import ReloadCollector
from sidecar.transport.certificate import CertificateMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

ROOT = Path(__file__).parents[3]
ALERT_TESTS = Path(__file__).parent / "alerts.yaml"
EVERYTHING: dict[str, Any] = {
    name: {"enabled": True} for name in ("serviceMonitor", "podMonitor", "prometheusRule", "redis")
}
EVERYTHING["injector"] = {"excludedNamespaces": ["build"]}
MONITORS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
# Made by Prometheus itself and by kube-state-metrics.
OF_OTHERS = {"up", "kube_namespace_labels", "kube_pod_labels", "kube_pod_status_phase"}
MONITOR_AND_SERVICE = ("ServiceMonitor", "Service")
TIERS = (common_pb2.TIER_HOT, common_pb2.TIER_DISK, common_pb2.TIER_WARM, common_pb2.TIER_COMPUTED)
HANG_GUARD = 120.0


@pytest.fixture
def rules(helm: Any) -> list[dict[str, Any]]:
    """The alerts, as a Prometheus reads them."""
    (group,) = helm.render(EVERYTHING).one("PrometheusRule")["spec"]["groups"]
    return list(group["rules"])


@pytest.fixture
def promtool(tool: Callable[[str], Path]) -> Callable[..., None]:
    """Runs promtool, which must find nothing wrong."""

    def run(*arguments: str | Path) -> None:
        done = subprocess.run(
            [tool("promtool"), *arguments], capture_output=True, text=True, timeout=HANG_GUARD
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]

    return run


def test_monitors_read_metrics_from_ports_that_are_there(helm: Any) -> None:
    objects = helm.render(EVERYTHING)
    for monitor in objects.of("ServiceMonitor"):
        component = monitor["metadata"]["name"].rpartition("-")[2]
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            each
            for each in objects.of("Service")
            if selector.items() <= each["metadata"]["labels"].items()
        ]
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
        assert {"targetLabel": "component", "replacement": component} in endpoint["relabelings"]
    (endpoint,) = objects.one("PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == METRICS_PORT_NAME


def test_metrics_of_an_encrypted_pool_are_read_with_its_authority_and_under_its_name(
    helm: Any,
) -> None:
    def endpoint(**tls: Any) -> dict[str, Any]:
        objects = helm.render({**EVERYTHING, "encoder": {"tls": tls}})
        (found,) = objects.one("ServiceMonitor", "cache-encoder")["spec"]["endpoints"]
        return dict(found)

    assert "scheme" not in endpoint()
    found = endpoint(existingSecret="pool-tls")
    assert found["scheme"] == "https"
    authority = {"secret": {"name": "pool-tls", "key": "ca.crt"}}
    assert found["tlsConfig"] == {"serverName": "cache-encoder.models.svc", "ca": authority}
    # Those who watch show a certificate, too.
    mutual = endpoint(existingSecret="pool-tls", clientAuth=True, clientSecret="client-tls")
    assert mutual["tlsConfig"] == found["tlsConfig"] | {
        "cert": {"secret": {"name": "client-tls", "key": "tls.crt"}},
        "keySecret": {"name": "client-tls", "key": "tls.key"},
    }


def test_metrics_of_sidecars_are_read_encrypted_where_they_have_a_certificate(helm: Any) -> None:
    def endpoint(name: str) -> dict[str, Any]:
        env = [{"name": name, "value": "/etc/embercache/tls/tls.crt"}]
        objects = helm.render({**EVERYTHING, "sidecar": {"env": env}})
        (found,) = objects.one("PodMonitor")["spec"]["podMetricsEndpoints"]
        return dict(found)

    assert endpoint("EMBERCACHE_TLS_CERT_FILE")["scheme"] == "https"
    assert "scheme" not in endpoint("EMBERCACHE_UPSTREAM_TLS_CERT_FILE")


def test_injected_pods_are_monitored_in_all_namespaces_and_may_call_pool_and_redis(
    helm: Any,
) -> None:
    injected = {annotations.STATUS_LABEL: annotations.STATUS_INJECTED}
    objects = helm.render(EVERYTHING)
    monitor = objects.one("PodMonitor")["spec"]
    assert monitor["namespaceSelector"] == {"any": True}
    assert monitor["selector"]["matchLabels"] == injected
    peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": injected}}
    for name in ("cache-encoder", "cache-redis"):
        ingress = objects.one("NetworkPolicy", name)["spec"]["ingress"]
        assert peer in ingress[0]["from"]


def test_monitors_are_installed_where_the_cluster_knows_them_or_it_is_said(helm: Any) -> None:
    def kinds(values: dict[str, Any], *arguments: str) -> set[str]:
        return {each["kind"] for each in helm.render(values, *arguments)} & MONITORS

    known = [f"--api-versions=monitoring.coreos.com/v1/{kind}" for kind in sorted(MONITORS)]
    never = {key: {"enabled": False} for key in ("serviceMonitor", "podMonitor", "prometheusRule")}
    assert kinds({}) == set()
    assert kinds({}, *known) == MONITORS
    assert kinds({}, known[0]) == {"PodMonitor"}
    assert kinds(never, *known) == set()
    assert kinds(EVERYTHING) == MONITORS


def test_only_what_is_installed_is_watched(helm: Any) -> None:
    off = {**EVERYTHING, "injector": {"enabled": False}, "encoder": {"enabled": False}}
    objects = helm.render(off)
    assert not objects.of("ServiceMonitor")
    alerts = json.dumps(objects.one("PrometheusRule"))
    assert "EmbercacheInjectorDown" not in alerts
    assert "EmbercacheEncoderDown" not in alerts
    assert "EmbercacheRedisDown" in alerts


def test_nothing_is_said_to_be_down_where_nothing_reads_its_metrics(helm: Any) -> None:
    silent = helm.render({**EVERYTHING, "serviceMonitor": {"enabled": False}})
    (group,) = silent.one("PrometheusRule")["spec"]["groups"]
    assert [rule for rule in group["rules"] if "absent" in rule["expr"]] == []


def test_a_component_is_down_when_the_service_of_its_monitor_is(helm: Any, rules: Any) -> None:
    objects = helm.render(EVERYTHING)
    expressions = {rule["alert"]: rule["expr"] for rule in rules}
    for alert, component in (("Encoder", "encoder"), ("Injector", "injector")):
        # A monitor without jobLabel names its job as the service.
        monitor, service = (objects.one(k, f"cache-{component}") for k in MONITOR_AND_SERVICE)
        assert "jobLabel" not in monitor["spec"]
        selector = 'namespace="{namespace}", job="{name}"'.format_map(service["metadata"])
        assert selector in expressions[f"Embercache{alert}Down"]


def test_alerts_are_what_prometheus_takes(rules: Any, promtool: Any, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(as_groups(rules))
    promtool("check", "rules", "--lint-fatal", tmp_path / "rules.yaml")


def as_groups(rules: list[dict[str, Any]]) -> str:
    return yaml.safe_dump({"groups": [{"name": "embercache", "rules": rules}]})


def test_alerts_fire_when_they_should_and_not_otherwise(
    rules: Any, promtool: Any, tmp_path: Path
) -> None:
    # What alerts say has figures in it that nobody wants to reckon here.
    silent = [{k: v for k, v in rule.items() if k != "annotations"} for rule in rules]
    (tmp_path / "rules.yaml").write_text(as_groups(silent))
    (tmp_path / "alerts.yaml").write_text(ALERT_TESTS.read_text("utf-8"))
    promtool("test", "rules", tmp_path / "alerts.yaml")


def test_every_alert_is_seen_to_fire(rules: Any) -> None:
    fired = {
        (each["alertname"], expected["exp_labels"]["severity"])
        for test in yaml.safe_load(ALERT_TESTS.read_text("utf-8"))["tests"]
        for each in test.get("alert_rule_test", [])
        for expected in each["exp_alerts"]
    }
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in rules} == fired


def test_every_alert_links_to_its_heading_in_the_runbook_if_that_is_somewhere(
    helm: Any, rules: Any
) -> None:
    page = (ROOT / "docs/operations.md").read_text("utf-8")
    headings = {heading.lower() for heading in re.findall(r"^#+ (\S+)$", page, re.MULTILINE)}
    assert not [rule for rule in rules if "runbook_url" in rule["annotations"]]
    somewhere = {"prometheusRule": {"enabled": True, "runbookUrl": "https://runbooks.example/e"}}
    (group,) = helm.render(somewhere).one("PrometheusRule")["spec"]["groups"]
    for rule in group["rules"]:
        url, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert url == "https://runbooks.example/e"
        assert anchor in headings


def every_metric() -> Iterator[tuple[str, Metric]]:
    """All metrics with the component that has them, each with all of its labels."""
    sidecar = CollectorRegistry()
    calls = CallMetrics(sidecar)
    calls.duration("Embed").observe(0.1)
    calls.failed("Embed", "UNAVAILABLE")
    counts = [common_pb2.TierCount(tier=tier, count=1) for tier in TIERS]
    prefix = cache_pb2.PrefixStats(
        reused_tokens=counts, bandwidths=[{"tier": common_pb2.TIER_WARM, "bytes_per_second": 1}]
    )
    # A certificate, what is left alone and files that change tell of themselves.
    CertificateMetrics(sidecar, "embercache")
    reloads = ReloadCollector()
    reloads.show({"policy": 0, "tokens": 0, "keys": 0})
    sidecar.register(reloads)
    breaker = Breaker("index")
    usage = cache_pb2.UsageStats(kind="embed", namespace="n", model="m", answered=counts)
    band = cache_pb2.SemanticStats.Band(answered=1)
    stats = cache_pb2.StatsResponse(
        tiers=[cache_pb2.TierStats(tier=tier) for tier in TIERS],
        disk=cache_pb2.DiskState(),
        warm=cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_UP),
        models=[cache_pb2.ModelStats(name="m")],
        generators=[cache_pb2.GeneratorStats(name="g", prefix=prefix)],
        usage=[usage],
        semantic=[cache_pb2.SemanticStats(namespace="n", bands=[band])],
        quotas=[cache_pb2.QuotaStats(namespace="n", quota="computations", refusals=1)],
        forged=[cache_pb2.ForgedStats(tier=common_pb2.TIER_WARM, what="entries", reason="forged")],
    )
    sidecar.register(StatsCollector(lambda: stats))
    injector = InjectorMetrics()
    injector.answered("injected", 0.01)
    for component, registry in (("sidecar", sidecar), ("injector", injector.registry)):
        for metric in registry.collect():
            yield component, metric
    assert breaker.closed


def queries_of_dashboard(helm: Any) -> Iterator[tuple[str, str, str]]:
    """Title, legend and query of every panel, with the variables of the dashboard filled in."""
    data = helm.render().one("ConfigMap", "cache-dashboard")["data"]
    for panel in json.loads(data["embercache.json"])["panels"]:
        for target in panel.get("targets", []):
            query = re.sub(r"\$(namespace|pod)\b", ".*", target["expr"])
            yield (
                panel["title"],
                target["legendFormat"],
                query.replace("$__rate_interval", "5m"),
            )


def test_every_metric_that_is_asked_for_exists_and_rates_are_of_counters(
    helm: Any, rules: Any
) -> None:
    known = {sample.name: metric.type for _, metric in every_metric() for sample in metric.samples}
    queries = [query for _, _, query in queries_of_dashboard(helm)]
    for query in [*queries, *(rule["expr"] for rule in rules)]:
        names = set(re.findall(r"\b(?:embercache|kube)_\w+|\bup\b", query))
        assert names, query
        assert names <= known.keys() | OF_OTHERS, query
        for name in re.findall(r"(?:rate|increase)\((\w+)", query):
            assert known[name] in ("counter", "histogram"), query


def test_titles_of_sums_of_gauges_say_that_they_begin_with_the_pods_that_run(helm: Any) -> None:
    titles = [title for title, _, query in queries_of_dashboard(helm) if "_saved{" in query]
    assert len(titles) == 4
    for title in titles:
        assert title.endswith(" saved by pods running now, since their start")


def test_every_panel_shows_something_and_its_legend_has_the_labels(
    helm: Any, promtool: Any, tmp_path: Path
) -> None:
    checks = []
    for _, legend, query in queries_of_dashboard(helm):
        labels = re.findall(r"{{(\w+)}}", legend)
        for label in labels:
            query = f'label_replace({query}, "with_{label}", "yes", "{label}", ".+")'
        found = {f"with_{label}": "yes" for label in labels}
        checks.append(
            {
                "expr": f"count by ({', '.join(found)}) ({query}) > bool 0",
                "eval_time": "30m",
                "exp_samples": [{"labels": series("", found), "value": 1}],
            }
        )
    test = {"interval": "1m", "input_series": list(input_series()), "promql_expr_test": checks}
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", tmp_path / "panels.yaml")


def input_series() -> Iterator[dict[str, str]]:
    """All metrics as Prometheus keeps them, with the labels of the chart's monitors."""
    for component, metric in every_metric():
        for sample in metric.samples:
            target = {"namespace": "shop", "pod": "a", "component": component}
            own = {f"exported_{k}" if k in target else k: v for k, v in sample.labels.items()}
            grows = metric.type in ("counter", "histogram")
            yield {
                "series": series(sample.name, target | own),
                "values": "0+60x60" if grows else "5x60",
            }


def series(name: str, labels: dict[str, str]) -> str:
    inside = ", ".join(f"{key}={json.dumps(value)}" for key, value in labels.items())
    return f"{name}{{{inside}}}"


def test_the_dashboard_is_found_by_grafana_and_asks_its_own_source_only(helm: Any) -> None:
    values = {"dashboard": {"annotations": {"grafana_folder": "Embercache"}}}
    item = helm.render(values).one("ConfigMap", "cache-dashboard")
    assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert item["metadata"]["annotations"] == {"grafana_folder": "Embercache"}
    dashboard = json.loads(item["data"]["embercache.json"])
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", "namespace", "pod"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"


def test_no_two_panels_overlap(helm: Any) -> None:
    data = helm.render().one("ConfigMap", "cache-dashboard")["data"]
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(data["embercache.json"])["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not taken & cells, panel["title"]
        taken |= cells
