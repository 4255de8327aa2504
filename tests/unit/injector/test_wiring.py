"""Which of a pod's containers reach its sidecar, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sidecar.injector.annotations import AnnotationError
from sidecar.injector.errors import InjectionError

if TYPE_CHECKING:
    from collections.abc import Callable

    Injected = Callable[..., dict[str, Any]]
    Names = Callable[[dict[str, Any], str], list[str]]
    Reached = Callable[[dict[str, Any]], set[str]]
    Annotate = Callable[..., dict[str, Any]]

SOCKET = "unix:/run/embercache/embercache.sock"
MOUNT = {"name": "embercache-socket", "mountPath": "/run/embercache", "readOnly": True}


@pytest.mark.parametrize("proxy", ["istio-proxy", "linkerd-proxy"])
def test_a_native_sidecar_starts_behind_the_native_proxy_of_a_mesh_as_it_needs_the_network(
    pod: dict[str, Any], injected: Injected, proxy: str, reached: Reached, names: Names
) -> None:
    mesh = [{"name": "mesh-init"}, {"name": proxy, "restartPolicy": "Always"}]
    pod["spec"]["initContainers"] = [{"name": "first"}, *mesh, {"name": "migrate"}]
    patched = injected(pod)
    started = ["first", "mesh-init", proxy, "embercache", "migrate"]
    assert names(patched, "initContainers") == started
    assert patched["spec"]["initContainers"][:3] == pod["spec"]["initContainers"][:3]
    assert reached(patched) == {"migrate", "app"}
    assert injected(patched) == patched


def test_the_classic_proxy_of_a_mesh_and_its_init_container_come_behind_a_native_sidecar(
    pod: dict[str, Any], injected: Injected, names: Names
) -> None:
    pod["spec"]["initContainers"].insert(0, {"name": "istio-init"})
    pod["spec"]["containers"].append({"name": "istio-proxy"})
    assert names(injected(pod), "initContainers") == ["embercache", "istio-init", "migrate"]


def test_sidecars_of_others_get_neither_address_nor_socket_unless_they_are_chosen(
    pod: dict[str, Any], injected: Injected, reached: Reached, annotate: Annotate
) -> None:
    logger = {"name": "logger", "restartPolicy": "Always"}
    pod["spec"]["initContainers"].append(logger)
    pod["spec"]["containers"] += [{"name": "istio-proxy"}, {"name": "linkerd-proxy"}]
    for native in (True, False):
        patched = injected(pod, native=native)
        assert reached(patched) == ({"migrate", "app"} if native else {"app"})
        assert patched["spec"]["initContainers"][-1] == logger
    chosen = annotate(pod, containers="app,logger,istio-proxy")
    assert reached(injected(chosen)) == {"app", "logger", "istio-proxy"}


def test_init_containers_reach_a_native_sidecar_only_as_a_classic_one_starts_after_them(
    pod: dict[str, Any], injected: Injected, reached: Reached
) -> None:
    assert reached(injected(pod)) == {"migrate", "app"}
    classic = injected(pod, native=False)
    assert reached(classic) == {"app"}
    assert classic["spec"]["initContainers"] == pod["spec"]["initContainers"]


def test_the_address_comes_first_so_that_the_user_s_variables_can_refer_to_it(
    pod: dict[str, Any], injected: Injected
) -> None:
    own = {"name": "URL", "value": "$(EMBERCACHE_ADDRESS)"}
    pod["spec"]["containers"][0]["env"] = [own]
    env = injected(pod)["spec"]["containers"][0]["env"]
    assert env == [{"name": "EMBERCACHE_ADDRESS", "value": SOCKET}, own]


def test_an_address_that_the_user_set_stays(pod: dict[str, Any], injected: Injected) -> None:
    own = [{"name": "EMBERCACHE_ADDRESS", "value": "127.0.0.1:50551"}]
    pod["spec"]["containers"][0]["env"] = own
    container = injected(pod)["spec"]["containers"][0]
    assert container["env"] == own
    assert container["volumeMounts"] == [MOUNT]


def test_a_mount_that_the_user_wrote_for_the_socket_stays(
    pod: dict[str, Any], injected: Injected
) -> None:
    own = [{"name": "embercache-socket", "mountPath": "/run/embercache/"}]
    pod["spec"]["containers"][0]["volumeMounts"] = own
    assert injected(pod)["spec"]["containers"][0]["volumeMounts"] == own


@pytest.mark.parametrize("path", ["/run/embercache", "/run/embercache/", "/run/embercache/sub"])
def test_a_volume_of_the_user_s_where_the_socket_goes_is_an_error(
    pod: dict[str, Any], injected: Injected, path: str, reached: Reached
) -> None:
    mount = {"name": "own", "mountPath": path}
    pod["spec"]["containers"][0]["volumeMounts"] = [mount]
    with pytest.raises(
        InjectionError, match="container app mounts a volume of its own at /run/emb"
    ):
        injected(pod)
    mount["mountPath"] = f"/data{path}"
    assert reached(injected(pod)) == {"app", "migrate"}


def test_containers_that_are_not_chosen_are_left_as_they_are(
    pod: dict[str, Any], injected: Injected, reached: Reached, annotate: Annotate
) -> None:
    pod["spec"]["containers"].append({"name": "worker", "image": "web"})
    patched = injected(annotate(pod, containers="worker,migrate"))
    assert reached(patched) == {"worker", "migrate"}
    assert patched["spec"]["containers"][0] == pod["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("native", "chosen", "message"),
    [
        (
            True,
            "ap",
            "no container ap runs beside the sidecar; did you mean app? There are: migrate",
        ),
        (False, "migrate", "no container migrate runs beside the sidecar; There are: app"),
        (True, "embercache", "no container embercache runs beside the sidecar"),
    ],
)
def test_a_chosen_container_that_cannot_reach_the_sidecar_is_an_error(
    pod: dict[str, Any],
    injected: Injected,
    native: bool,
    chosen: str,
    message: str,
    annotate: Annotate,
) -> None:
    with pytest.raises(AnnotationError) as caught:
        injected(annotate(pod, containers=chosen), native=native)
    assert str(caught.value).startswith(f"embercache.io/containers: {message}")


def test_containers_that_another_webhook_added_meanwhile_reach_the_sidecar_too(
    pod: dict[str, Any], injected: Injected, reached: Reached
) -> None:
    patched = injected(pod)
    patched["spec"]["containers"].insert(0, {"name": "proxy"})
    patched["spec"]["initContainers"].append({"name": "late"})
    patched["spec"]["initContainers"].insert(0, {"name": "early"})
    again = injected(patched)
    assert reached(again) == {"proxy", "app", "migrate", "late"}
    assert again["spec"]["initContainers"][0] == {"name": "early"}
    assert injected(again) == again


@pytest.mark.parametrize("path", ["/", "/run", "/run/"])
@pytest.mark.parametrize(
    ("volume", "mount", "what"),
    [
        ({"emptyDir": {}}, {"readOnly": True}, "a volume that is read-only"),
        ({"configMap": {"name": "c"}}, {}, "a volume that is read-only"),
        ({"hostPath": {"path": "/run"}}, {}, "a folder of the node"),
        ({"hostPath": {"path": "/run"}}, {"readOnly": True}, "a folder of the node"),
    ],
)
def test_a_volume_above_the_socket_that_its_folder_cannot_be_made_in_is_an_error(
    pod: dict[str, Any],
    injected: Injected,
    path: str,
    volume: dict[str, Any],
    mount: dict[str, Any],
    what: str,
) -> None:
    pod["spec"]["volumes"] = [{"name": "own"} | volume]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "own", "mountPath": path} | mount]
    with pytest.raises(InjectionError) as caught:
        injected(pod)
    assert str(caught.value) == (
        f"container app mounts {what} at {path.rstrip('/') or '/'}, and the sidecar's socket needs"
        " the folder /run/embercache in it: mount it elsewhere, or leave the container out with"
        " embercache.io/containers"
    )


@pytest.mark.parametrize(
    ("volume", "path"),
    [
        ({"emptyDir": {}}, "/run"),
        ({"persistentVolumeClaim": {"claimName": "c"}}, "/"),
        ({"hostPath": {"path": "/run"}}, "/host/run"),
        ({"hostPath": {"path": "/run"}}, "/run/emb"),
        ({"secret": {"secretName": "s"}}, "/run/secrets"),
    ],
)
def test_a_volume_above_it_that_can_be_written_to_or_beside_it_is_not_in_the_way(
    pod: dict[str, Any], injected: Injected, reached: Reached, volume: dict[str, Any], path: str
) -> None:
    pod["spec"]["volumes"] = [{"name": "own"} | volume]
    pod["spec"]["containers"][0]["volumeMounts"] = [{"name": "own", "mountPath": path}]
    assert reached(injected(pod)) == {"app", "migrate"}
