"""What becomes of a pod, by what the API server says of it."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.injector_process import InjectorProcess

STORABLE_IN = ("1.29", "1.31", "1.33", "1.36")


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The native sidecar."""
    first: dict[str, Any] = pod["spec"]["initContainers"][0]
    assert (first["name"], first["restartPolicy"]) == ("embercache", "Always")
    return first


def job_pod(make_pod: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """As the controller of Jobs makes them: named by the API server only later."""
    pod = make_pod()
    metadata = {**pod["metadata"], "generateName": "job-"}
    del metadata["name"]
    metadata["ownerReferences"] = [
        {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "3", "controller": True}
    ]
    return pod | {"metadata": metadata, "spec": pod["spec"] | {"restartPolicy": "Never"}}


def pod_with_everything(make_pod: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    pod = make_pod(
        model="minilm",
        namespace="team-a",
        redis_secret="redis-a/address",  # noqa: S106
        encoder_target="dns:///pool:50551",
        log_level="debug",
        port="6000",
        metrics_port="6001",
        sidecar_cpu_request="250m",
        sidecar_cpu_limit="1",
        sidecar_memory_request="256Mi",
        sidecar_memory_limit="1Gi",
        image="registry.test/embercache:2",
        containers="app",
    )
    pod["spec"]["initContainers"] = [{"name": "migrate", "image": "registry.test/migrate:1"}]
    pod["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    pod["spec"]["securityContext"] = {"supplementalGroups": [7], "fsGroup": 7}
    return pod


@pytest.mark.parametrize("kind", ["plain", "job", "everything"])
async def test_a_pod_that_asks_gets_a_sidecar_and_stays_valid(
    kind: str,
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pods = {"plain": lambda make: make(), "job": job_pod, "everything": pod_with_everything}
    pod = pods[kind](make_pod)
    answer = await caller.review(make_review(pod))
    injected = patched(pod, answer)
    assert answer.response["allowed"]
    sidecar_of(injected)
    assert injected["metadata"]["labels"]["embercache.io/status"] == "injected"
    for version in STORABLE_IN:
        kubernetes_validate.validate(injected, version, strict=True)


async def test_annotations_shape_the_sidecar(
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pod = pod_with_everything(make_pod)
    sidecar = sidecar_of(patched(pod, await caller.review(make_review(pod))))
    variables = {each["name"]: each for each in sidecar["env"]}
    assert sidecar["image"] == "registry.test/embercache:2"
    assert sidecar["resources"]["requests"] == {"cpu": "250m", "memory": "256Mi"}
    assert variables["EMBERCACHE_SERVER_ADDRESS"]["value"] == "127.0.0.1:6000"
    assert variables["EMBERCACHE_CACHE_NAMESPACE"]["value"] == "team-a"
    secret = variables["EMBERCACHE_REDIS_URL"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], secret["key"]) == ("redis-a", "address")


async def test_settings_of_the_injector_are_what_annotations_leave_open(
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pod = make_pod()
    sidecar = sidecar_of(patched(pod, await caller.review(make_review(pod))))
    assert sidecar["image"] == "registry.test/embercache:1"


async def test_the_namespace_is_taken_from_the_request_as_the_pod_may_not_name_it(
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pod = job_pod(make_pod)
    answer = await caller.review(make_review(pod, namespace="batch", name=""))
    variables = {each["name"]: each for each in sidecar_of(patched(pod, answer))["env"]}
    assert variables["EMBERCACHE_CACHE_NAMESPACE"]["value"] == "batch"


async def test_an_injected_pod_that_comes_again_is_not_changed(
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pod = make_pod()
    injected = patched(pod, await caller.review(make_review(pod)))
    assert (await caller.review(make_review(injected))).patch == []


async def test_a_dry_run_is_answered_like_any_other(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    dry = await caller.review(make_review(make_pod(), dryRun=True))
    assert dry.patch == (await caller.review(make_review(make_pod()))).patch != []


LEFT_ALONE: dict[str, dict[str, Any]] = {
    "of the injector's own namespace": {"namespace": "embercache-system"},
    "of kube-system": {"namespace": "kube-system"},
    "of an excluded namespace": {"namespace": "no-sidecars-here"},
    "that changes": {"operation": "UPDATE"},
    "that goes": {"operation": "DELETE", "object": None},
    "of which only a part is meant": {"subResource": "ephemeralcontainers"},
    "of another group": {"resource": {"group": "x.io", "version": "v1", "resource": "pods"}},
    "that is none": {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
}


@pytest.mark.parametrize("fields", LEFT_ALONE.values(), ids=LEFT_ALONE)
async def test_left_alone_is_a_pod(
    fields: dict[str, Any],
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
) -> None:
    before = await caller.metric('embercache_injector_requests_total{outcome="skipped"}')
    answer = await caller.review(make_review(make_pod(), **fields))
    assert answer.response["allowed"]
    assert answer.patch == []
    after = await caller.metric('embercache_injector_requests_total{outcome="skipped"}')
    assert after - before == 1


async def test_who_asks_in_an_excluded_namespace_is_warned(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    answer = await caller.review(make_review(make_pod(), namespace="no-sidecars-here"))
    assert answer.response["warnings"] == [
        "no Embercache sidecar was added: the namespace no-sidecars-here is excluded"
    ]


@pytest.mark.parametrize(
    ("label", "path", "injected"),
    [
        ("true", "/mutate", True),
        ("false", "/mutate", False),
        (None, "/mutate", False),
        ("true", "/mutate/namespace", True),
        ("false", "/mutate/namespace", False),
        (None, "/mutate/namespace", True),
    ],
)
async def test_the_label_of_a_pod_wins_over_that_of_its_namespace(
    label: str | None,
    path: str,
    injected: bool,
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
) -> None:
    pod = make_pod()
    pod["metadata"]["labels"] = {} if label is None else {"embercache.io/inject": label}
    answer = await caller.review(make_review(pod), path)
    assert bool(answer.patch) == injected


@pytest.mark.parametrize(
    ("annotation", "value", "advice"),
    [
        ("modle", "minilm", "did you mean embercache.io/model?"),
        ("port", "80", "embercache.io/port: "),
        ("sidecar-memory-limit", "lots", "embercache.io/sidecar-memory-limit: "),
        ("native-sidecar", "yes", "embercache.io/native-sidecar: write auto, true or false"),
        ("config-patch", "[", "embercache.io/config-patch: "),
    ],
)
async def test_a_wrong_annotation_is_denied_with_what_to_write_instead(
    annotation: str,
    value: str,
    advice: str,
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
) -> None:
    answer = await caller.review(make_review(make_pod(**{annotation: value})))
    assert not answer.response["allowed"]
    assert answer.response["status"]["code"] == 422
    assert advice in answer.response["status"]["message"]
    assert answer.patch == []


async def test_a_label_that_is_neither_true_nor_false_is_denied(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["metadata"]["labels"]["embercache.io/inject"] = "yes"
    answer = await caller.review(make_review(pod))
    assert 'label embercache.io/inject: write "true"' in answer.response["status"]["message"]


@pytest.mark.parametrize(
    ("labels", "annotations", "allowed"),
    [
        ({}, {}, True),
        ({"app": "web", "embercache.io/team": "a"}, {"note": "x"}, True),
        ({"embercache.io/inject": "true"}, {}, False),
        ({}, {"embercache.io/model": "minilm"}, False),
    ],
)
async def test_only_pods_that_say_something_to_the_injector_are_denied_in_a_namespace_that_asks(
    labels: dict[str, str],
    annotations: dict[str, str],
    allowed: bool,
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
) -> None:
    pod = make_pod()
    pod["metadata"] |= {"labels": labels, "annotations": annotations}
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 50551}]
    reason = (
        "container app listens on port 50551 like the sidecar: give the sidecar another with"
        " embercache.io/port"
    )
    before = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    answer = await caller.review(make_review(pod), "/mutate/namespace")
    after = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    assert answer.patch == []
    assert answer.response["allowed"] == allowed
    assert after - before == allowed
    if allowed:
        assert answer.response["warnings"] == [f"no Embercache sidecar was added: {reason}"]
    else:
        assert answer.response["status"]["message"] == reason


async def test_a_label_of_ours_that_is_unknown_does_not_matter_if_only_the_namespace_asks(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["metadata"]["labels"] = {"embercache.io/team": "a"}
    assert (await caller.review(make_review(pod), "/mutate/namespace")).patch
    pod["metadata"]["labels"]["embercache.io/inject"] = "true"
    assert not (await caller.review(make_review(pod))).response["allowed"]


async def test_an_injected_pod_comes_with_a_warning_of_what_to_look_at(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["spec"] |= {"hostNetwork": True, "dnsPolicy": "ClusterFirst"}
    answer = await caller.review(make_review(pod))
    assert answer.patch
    assert answer.response["warnings"] == [
        (
            "Embercache: on the node's network no names of services are resolved: set dnsPolicy:"
            " ClusterFirstWithHostNet"
        )
    ]


@pytest.mark.parametrize("broken", [None, {}, {"metadata": 1}, [], "pod"], ids=repr)
async def test_what_the_injector_cannot_make_sense_of_passes_with_a_warning(
    broken: Any, caller: Any, make_review: Callable[..., Any]
) -> None:
    before = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    answer = await caller.review(make_review(broken))
    assert answer.response["allowed"]
    assert answer.response["warnings"] == [
        "no Embercache sidecar was added: the review has no pod with metadata"
    ]
    after = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    assert after - before == 1


async def test_a_pod_that_cannot_have_a_sidecar_counts_as_failed_and_says_why(
    caller: Any, make_pod: Callable[..., dict[str, Any]], make_review: Callable[..., Any]
) -> None:
    pod = make_pod()
    pod["spec"]["os"] = {"name": "windows"}
    before = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    answer = await caller.review(make_review(pod))
    assert answer.response["allowed"]
    assert answer.response["warnings"] == ["no Embercache sidecar was added: it runs on Windows"]
    after = await caller.metric('embercache_injector_requests_total{outcome="failed"}')
    assert after - before == 1


async def test_logs_name_the_pod_and_hold_nothing_of_it(
    caller: Any,
    injector: InjectorProcess,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
) -> None:
    hidden = "a-value-not-to-be-shown"
    fine, denied, broken = make_pod(), make_pod(port=hidden), make_pod()
    for pod in (fine, denied, broken):
        pod["spec"]["containers"][0]["env"] = [{"name": "KEY", "value": hidden}]
    broken["metadata"]["labels"] = ["embercache.io/inject", hidden]
    for uid, pod in zip(("fine-1", "denied-1", "broken-1"), (fine, denied, broken), strict=True):
        await caller.review(make_review(copy.deepcopy(pod), uid=uid))
    told = {event["uid"]: event for event in injector.events if event["event"] == "pod reviewed"}
    assert told["fine-1"]["outcome"] == "injected"
    assert (told["fine-1"]["namespace"], told["fine-1"]["pod"]) == ("shop", "web")
    assert told["denied-1"]["outcome"] == "denied"
    assert told["broken-1"]["outcome"] == "failed"
    assert hidden not in injector.log


async def test_a_pod_whose_parts_are_all_large_is_answered(
    caller: Any,
    make_pod: Callable[..., dict[str, Any]],
    make_review: Callable[..., Any],
    patched: Callable[..., dict[str, Any]],
) -> None:
    pod = make_pod()
    variables = [{"name": f"V{number}", "value": "x" * 90} for number in range(1_000)]
    pod["spec"]["containers"] = [
        {"name": f"app-{number}", "image": "registry.test/app:1", "env": variables}
        for number in range(20)
    ]
    review = make_review(pod)
    assert len(json.dumps(review)) > 2 * 2**20
    injected = patched(pod, await caller.review(review))
    for container in injected["spec"]["containers"]:
        assert "EMBERCACHE_ADDRESS" in {each["name"] for each in container["env"]}
