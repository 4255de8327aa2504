"""The API server asks a real injector about pods as the chart's own webhook configuration says."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from bench.certificates import MountedPair
from bench.injector_process import InjectorProcess
from sidecar.injector.annotations import INJECT_LABEL, STATUS_INJECTED, STATUS_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DENIED = 'denied the request: label embercache.io/inject: write "true" or "false"'


class Places:
    """Namespaces by what they are to the chart."""

    def __init__(self, own: str, excluded: str, plain: str, labelled: str) -> None:
        self._names = {"own": own, "excluded": excluded, "plain": plain, "labelled": labelled}
        self.own, self.excluded, self.plain = own, excluded, plain

    def __getitem__(self, place: str) -> str:
        return self._names.get(place, place)


@contextlib.contextmanager
def new_places(cluster: Any) -> Iterator[Places]:
    """The namespace of the release, an excluded one that asks, one without label, one that asks."""
    asks = {INJECT_LABEL: "true"}
    with contextlib.ExitStack() as exits:
        labels = ({}, asks, {}, asks)
        yield Places(*(exits.enter_context(cluster.namespace(each)) for each in labels))


@pytest.fixture(scope="module")
def places(cluster: Any) -> Iterator[Places]:
    with new_places(cluster) as made:
        yield made


@contextlib.contextmanager
def chart_s_webhook(
    cluster: Any, helm: Any, places: Places, folder: Path
) -> Iterator[InjectorProcess]:
    """The webhook configuration and the settings of the chart, with an injector on loopback."""
    values = {
        "injector": {
            "failurePolicy": "Fail",
            "excludedNamespaces": [places.excluded],
            "certificate": {
                "source": "existingSecret",
                "existingSecret": "tls",
                "caBundle": cluster.authority.pem.decode(),
            },
        }
    }
    objects = helm.render(values, f"--namespace={places.own}")
    config = folder / "config.yaml"
    config.write_text(objects.one("ConfigMap", "cache-injector")["data"]["config.yaml"])
    pair = MountedPair(folder / "tls")
    pair.put(*cluster.authority.issue())
    configuration = objects.one("MutatingWebhookConfiguration")
    environment = {"POD_NAMESPACE": places.own}
    with InjectorProcess(folder, pair, environment, config=config, drain_delay="0s") as injector:
        for webhook in configuration["webhooks"]:
            client = webhook["clientConfig"]
            assert base64.b64decode(client["caBundle"]) == cluster.authority.pem
            # The API server of the tests is in no network of pods.
            client["url"] = injector.url + client.pop("service")["path"]
        cluster.create(configuration)
        try:
            cluster.wait_for(lambda: is_injected(cluster.dry_run_pod(places.plain, pod("true"))))
            yield injector
        finally:
            kind = "mutatingwebhookconfiguration"
            cluster.kubectl("delete", kind, configuration["metadata"]["name"])


@pytest.fixture(scope="module")
def webhook(
    cluster: Any, helm: Any, places: Places, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    with chart_s_webhook(cluster, helm, places, tmp_path_factory.mktemp("webhook")):
        yield


def pod(label: str | None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "app", "labels": {} if label is None else {INJECT_LABEL: label}},
        "spec": {"containers": [{"name": "app", "image": "registry.test/app:1"}]},
    }


def is_injected(made: dict[str, Any]) -> bool:
    sidecars = [each["name"] for each in made["spec"].get("initContainers", [])]
    assert sidecars in ([], ["embercache"])
    labels = made["metadata"].get("labels", {})
    assert (labels.get(STATUS_LABEL) == STATUS_INJECTED) is bool(sidecars)
    return bool(sidecars)


@pytest.mark.parametrize(
    ("place", "label", "injected"),
    [
        ("plain", None, False),
        ("plain", "true", True),
        ("plain", "false", False),
        ("labelled", None, True),
        ("labelled", "true", True),
        ("labelled", "false", False),
        ("own", "true", False),
        ("excluded", None, False),
        ("excluded", "true", False),
        ("kube-system", "true", False),
    ],
)
def test_pods_that_ask_or_whose_namespace_asks_are_injected_where_they_may_be(
    cluster: Any, webhook: None, places: Places, place: str, label: str | None, injected: bool
) -> None:
    assert is_injected(cluster.dry_run_pod(places[place], pod(label))) is injected


@pytest.mark.parametrize("place", ["plain", "labelled"])
def test_the_author_of_a_label_that_is_neither_true_nor_false_is_told(
    cluster: Any, webhook: None, places: Places, place: str
) -> None:
    assert DENIED in refusal(cluster, places[place], "yes")


def refusal(cluster: Any, namespace: str, label: str | None) -> str:
    """What kubectl says of a pod that is refused; empty if it is not."""
    flags = ("--filename=-", "--dry-run=server", f"--namespace={namespace}")
    done = cluster.try_kubectl("create", *flags, stdin=json.dumps(pod(label)))
    return done.stderr if done.returncode else ""


def test_with_fail_an_injector_that_has_gone_keeps_only_pods_that_ask_from_starting(
    cluster: Any, helm: Any, tmp_path: Path
) -> None:
    with (
        new_places(cluster) as places,
        chart_s_webhook(cluster, helm, places, tmp_path) as injector,
    ):
        injector.kill()
        # The injector of the other tests may still be asked, too.
        cluster.wait_for(lambda: refusal(cluster, places.plain, "true"))
        for place, label in (("plain", "true"), ("labelled", None), ("labelled", "true")):
            assert "failed calling webhook" in refusal(cluster, places[place], label)
        for place, label in (
            ("plain", None),
            ("plain", "false"),
            ("labelled", "false"),
            ("own", "true"),
            ("excluded", "true"),
            ("kube-system", "true"),
        ):
            assert refusal(cluster, places[place], label) == ""
