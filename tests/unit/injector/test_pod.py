"""What changes in a pod that gets its sidecar, and what does not."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import __version__
from sidecar.injector.errors import InjectionError
from sidecar.injector.patch import apply
from sidecar.injector.pod import Injection, inject
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    Injected = Callable[..., dict[str, Any]]
    Names = Callable[[dict[str, Any], str], list[str]]
    Reached = Callable[[dict[str, Any]], set[str]]
    Annotate = Callable[..., dict[str, Any]]


def left_alone(pod: dict[str, Any], *, native: bool = True) -> str:
    """Why a pod is left alone."""
    result = inject(pod, namespace="shop", settings=InjectorSettings(), native=native)
    assert not (result.left_alone and result.operations)
    return result.left_alone


def test_a_native_sidecar_starts_before_the_pod_s_own_init_containers(
    pod: dict[str, Any], injected: Injected, names: Names
) -> None:
    patched = injected(pod)
    assert names(patched, "initContainers") == ["embercache", "migrate"]
    assert patched["spec"]["initContainers"][0]["restartPolicy"] == "Always"
    assert names(patched, "containers") == ["app"]


def test_a_classic_sidecar_comes_last_so_that_the_app_stays_the_main_container(
    pod: dict[str, Any], injected: Injected, names: Names
) -> None:
    patched = injected(pod, native=False)
    assert names(patched, "containers") == ["app", "embercache"]
    assert names(patched, "initContainers") == ["migrate"]
    assert "restartPolicy" not in patched["spec"]["containers"][1]


def test_the_pod_says_what_kind_of_sidecar_it_gets(
    pod: dict[str, Any], injected: Injected, names: Names, annotate: Annotate
) -> None:
    assert "embercache" in names(injected(annotate(pod, native_sidecar="false")), "containers")
    native = injected(annotate(pod, native_sidecar="true"), native=False)
    assert names(native, "initContainers")[0] == "embercache"
    auto = injected(annotate(pod, native_sidecar="auto"), native=False)
    assert "embercache" in names(auto, "containers")


def test_the_socket_is_in_memory_in_a_volume_that_the_pod_s_containers_share(
    pod: dict[str, Any], injected: Injected, sidecar_of: Callable[..., dict[str, Any]]
) -> None:
    patched = injected(pod)
    volume = {"name": "embercache-socket", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    assert volume in patched["spec"]["volumes"]
    mount = {"name": "embercache-socket", "mountPath": "/run/embercache"}
    assert mount in sidecar_of(patched)["volumeMounts"]


def test_containers_of_any_user_get_the_group_that_may_use_the_socket(
    pod: dict[str, Any], injected: Injected
) -> None:
    pod["spec"]["securityContext"] = {"fsGroup": 7, "supplementalGroups": [9]}
    context = injected(pod)["spec"]["securityContext"]
    assert context == {"fsGroup": 7, "supplementalGroups": [9, 65532]}
    assert injected(pod, runAsGroup=9)["spec"]["securityContext"] == pod["spec"]["securityContext"]
    assert injected(pod, runAsGroup=None)["spec"]["securityContext"]["supplementalGroups"] == [9]


def test_an_injected_pod_is_labelled_and_tells_the_injector_s_version(
    pod: dict[str, Any], injected: Injected
) -> None:
    pod["metadata"] |= {"labels": {"app": "web"}, "annotations": {"note": "x"}}
    metadata = injected(pod)["metadata"]
    assert metadata["labels"] == {"app": "web", "embercache.io/status": "injected"}
    assert metadata["annotations"] == {"note": "x", "embercache.io/injector-version": __version__}


@pytest.mark.parametrize("empty", [None, {}])
def test_a_pod_without_labels_annotations_and_security_context_gets_them(
    injected: Injected, empty: Any, reached: Reached
) -> None:
    bare = {"spec": {"containers": [{"name": "app", "env": None}], "volumes": None}}
    bare |= {"metadata": {"labels": empty, "annotations": empty}} if empty is not None else {}
    bare["spec"]["securityContext"] = empty  # type: ignore[assignment]
    patched = injected(bare)
    assert patched["metadata"]["labels"] == {"embercache.io/status": "injected"}
    assert patched["spec"]["securityContext"] == {"supplementalGroups": [65532]}
    assert reached(patched) == {"app"}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("asked_again", [True, False])
def test_a_pod_that_has_its_sidecar_is_not_changed_again(
    pod: dict[str, Any], injected: Injected, native: bool, asked_again: bool
) -> None:
    patched = injected(pod, native=native)
    other = InjectorSettings(image="embercache:other", log_level="debug")
    assert inject(patched, namespace="x", settings=other, native=asked_again) == Injection()


def test_a_label_without_a_sidecar_as_in_a_copied_manifest_does_not_count(
    pod: dict[str, Any], injected: Injected, names: Names
) -> None:
    pod["metadata"]["labels"] = {"embercache.io/status": "injected"}
    assert names(injected(pod), "initContainers") == ["embercache", "migrate"]


@pytest.mark.parametrize("key", ["containers", "initContainers"])
def test_a_container_of_the_user_s_with_the_sidecar_s_name_is_an_error(
    pod: dict[str, Any], injected: Injected, key: str
) -> None:
    pod["spec"][key].append({"name": "embercache", "image": "own"})
    with pytest.raises(InjectionError, match="has a container named embercache of its own: rename"):
        injected(pod)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("labels", [None, {"app": "web"}])
def test_a_copy_for_debugging_which_lost_its_labels_is_known_by_its_sidecar_and_labelled_again(
    pod: dict[str, Any], injected: Injected, native: bool, labels: dict[str, str] | None
) -> None:
    patched = injected(pod, native=native)
    copied = patched | {"metadata": patched["metadata"] | {"labels": labels}}
    restored = injected(copied, native=native)
    assert restored["metadata"]["labels"] == (labels or {}) | {"embercache.io/status": "injected"}
    assert restored["spec"] == patched["spec"]


@pytest.mark.parametrize("changed", [{"volumes": []}, {"initContainers": [{"name": "embercache"}]}])
def test_a_container_with_the_sidecar_s_name_alone_is_not_taken_for_it(
    pod: dict[str, Any], injected: Injected, changed: dict[str, Any]
) -> None:
    patched = injected(pod)
    copied = patched | {"metadata": {"name": "copy"}, "spec": patched["spec"] | changed}
    with pytest.raises(InjectionError, match="has a container named embercache of its own: rename"):
        injected(copied)


def test_a_volume_of_the_user_s_with_the_socket_s_name_is_an_error(
    pod: dict[str, Any], injected: Injected
) -> None:
    pod["spec"]["volumes"] = [{"name": "embercache-socket", "emptyDir": {}}]
    with pytest.raises(InjectionError, match="has a volume named embercache-socket of its own"):
        injected(pod)


def test_a_volume_like_the_socket_s_is_used(pod: dict[str, Any], injected: Injected) -> None:
    volumes = injected(pod)["spec"]["volumes"]
    pod["spec"]["volumes"] = volumes
    names = [each["name"] for each in injected(pod)["spec"]["volumes"]]
    assert names.count("embercache-socket") == 1


@pytest.mark.parametrize(("number", "name"), [(50551, "port"), (50552, "metrics-port")])
def test_a_port_that_the_app_listens_on_is_an_error_that_names_the_annotation(
    pod: dict[str, Any], injected: Injected, number: int, name: str, annotate: Annotate
) -> None:
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 80}, {"containerPort": number}]
    with pytest.raises(InjectionError) as caught:
        injected(pod)
    assert str(caught.value) == (
        f"container app listens on port {number} like the sidecar: give the sidecar another with"
        f" embercache.io/{name}"
    )
    assert injected(annotate(pod, **{name.replace("-", "_"): "6000"}))


def test_a_udp_port_is_another_port(
    pod: dict[str, Any], injected: Injected, reached: Reached
) -> None:
    pod["spec"]["containers"][0]["ports"] = [{"containerPort": 50551, "protocol": "UDP"}]
    assert reached(injected(pod)) == {"app", "migrate"}


@pytest.mark.parametrize(
    "of_windows", [{"os": {"name": "windows"}}, {"nodeSelector": {"kubernetes.io/os": "windows"}}]
)
def test_windows_pods_are_left_alone(
    pod: dict[str, Any], injected: Injected, of_windows: dict[str, Any]
) -> None:
    pod["spec"] |= of_windows
    assert left_alone(pod) == "it runs on Windows"
    assert injected(pod) == pod


def test_what_is_wrong_with_a_pod_that_is_left_alone_does_not_matter(
    pod: dict[str, Any], annotate: Annotate
) -> None:
    pod["spec"]["os"] = {"name": "windows"}
    assert left_alone(annotate(pod, port="80")) == "it runs on Windows"


def test_linux_pods_are_not(pod: dict[str, Any], injected: Injected, reached: Reached) -> None:
    pod["spec"] |= {"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}}
    assert left_alone(pod) == ""
    assert reached(injected(pod)) == {"app", "migrate"}


def test_mirrors_of_static_pods_are_left_alone(pod: dict[str, Any], injected: Injected) -> None:
    pod["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "0"}
    assert left_alone(pod) == "it is a static pod, which its node has started already"
    assert injected(pod) == pod


@pytest.mark.parametrize("key", ["containers", "initContainers"])
def test_a_pod_with_more_containers_than_can_be_looked_at_soon_is_left_alone(
    pod: dict[str, Any], injected: Injected, key: str, reached: Reached
) -> None:
    pod["spec"][key] = [{"name": f"c{number}"} for number in range(500)]
    assert len(reached(injected(pod))) == 501
    pod["spec"][key].append({"name": "one-more"})
    assert left_alone(pod) == "it has more than 500 containers"


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        ({"hostNetwork": True}, True),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirst"}, True),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, False),
        ({"hostNetwork": True, "dnsPolicy": "Default"}, False),
        ({"dnsPolicy": "ClusterFirst"}, False),
        ({}, False),
    ],
)
def test_a_pod_on_the_node_s_network_that_does_not_ask_the_cluster_for_names_is_warned_of_it(
    pod: dict[str, Any], spec: dict[str, Any], warned: bool
) -> None:
    pod["spec"] |= spec
    result = inject(pod, namespace="shop", settings=InjectorSettings(), native=True)
    assert [("ClusterFirstWithHostNet" in each) for each in result.warnings] == [True] * warned
    assert result.operations


@pytest.mark.parametrize("policy", ["Never", "OnFailure"])
def test_a_pod_that_is_to_end_gets_no_sidecar_that_would_keep_it_from_ending(
    pod: dict[str, Any], injected: Injected, policy: str, names: Names
) -> None:
    pod["spec"]["restartPolicy"] = policy
    assert "keep it from ending" in left_alone(pod, native=False)
    assert injected(pod, native=False) == pod
    assert left_alone(pod) == ""
    native = injected(pod)
    assert names(native, "initContainers")[0] == "embercache"
    assert left_alone(native, native=False) == ""
    assert injected(native, native=False) == native


def test_a_pod_that_is_to_end_gets_a_classic_sidecar_if_it_asks_for_just_that(
    pod: dict[str, Any], injected: Injected, names: Names, annotate: Annotate
) -> None:
    pod["spec"]["restartPolicy"] = "Never"
    asking = annotate(pod, native_sidecar="false")
    assert names(injected(asking, native=False), "containers") == ["app", "embercache"]


def test_a_shared_process_namespace_and_fields_that_are_not_known_stay(
    pod: dict[str, Any], injected: Injected
) -> None:
    more = {
        "shareProcessNamespace": True,
        "ephemeralContainers": [{"name": "debug", "image": "busybox"}],
        "fieldOfTheFuture": {"a": [1, None]},
    }
    pod["spec"] |= more
    pod["spec"]["initContainers"][0] |= {"restartPolicy": "Always", "futureField": 1.5}
    patched = injected(pod)
    assert {key: patched["spec"][key] for key in more} == more
    assert patched["spec"]["initContainers"][1].items() >= pod["spec"]["initContainers"][0].items()


def test_the_pod_that_is_given_is_not_changed(pod: dict[str, Any]) -> None:
    before = copy.deepcopy(pod)
    result = inject(pod, namespace="shop", settings=InjectorSettings(), native=True)
    apply(pod, result.operations)
    assert pod == before


def test_values_of_another_type_where_they_do_not_matter_stay(injected: Injected) -> None:
    container = {"name": {}, "env": [{"name": []}], "ports": [{"containerPort": {}}]}
    patched = injected(
        {"spec": {"containers": [container], "restartPolicy": [], "os": {"name": {}}}}
    )
    assert patched["spec"]["containers"][0].items() >= {"name": {}}.items()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "the pod has no containers"),
        ({"containers": []}, "the pod has no containers"),
        ({"containers": "app"}, "containers must be a list of mappings"),
        ({"containers": ["app"]}, "containers must be a list of mappings"),
        ({"containers": [{"name": "a", "env": {}}]}, "env must be a list of mappings"),
        ({"containers": [{"name": "a", "ports": [1]}]}, "ports must be a list of mappings"),
        ({"containers": [{}], "initContainers": 1}, "initContainers must be a list of mappings"),
        ({"containers": [{}], "volumes": "x"}, "volumes must be a list of mappings"),
        ({"containers": [{}], "securityContext": []}, "securityContext must be a mapping"),
        ({"containers": [{}], "securityContext": {"supplementalGroups": 1}}, "must be a list"),
        ([], "spec must be a mapping"),
    ],
)
def test_what_is_no_pod_is_an_error_that_says_why(
    injected: Injected, spec: Any, message: str
) -> None:
    with pytest.raises(InjectionError, match=message):
        injected({"spec": spec})
