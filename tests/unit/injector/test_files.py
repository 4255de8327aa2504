"""Secrets and ConfigMaps that the sidecar has as files, and the token that it has not."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.injector.pod import Injection, inject
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    Injected = Callable[..., dict[str, Any]]
    SidecarOf = Callable[[dict[str, Any]], dict[str, Any]]

TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
KEYS = {"secret": "cache-keys", "path": "/etc/embercache/keys"}
AUTHORITY = {"configMap": "pool-ca", "path": "/etc/embercache/ca"}


def source_at(pod: dict[str, Any], container: dict[str, Any], path: str) -> dict[str, Any]:
    """The volume that a container has at a path, without its name; it can only be read."""
    (mount,) = [each for each in container["volumeMounts"] if each["mountPath"] == path]
    assert mount["readOnly"] is True
    (volume,) = [each for each in pod["spec"]["volumes"] if each["name"] == mount["name"]]
    return {key: value for key, value in volume.items() if key != "name"}


@pytest.mark.parametrize("native", [True, False])
def test_the_sidecar_has_secrets_and_config_maps_of_the_settings_as_files_of_any_user(
    pod: dict[str, Any], injected: Injected, sidecar_of: SidecarOf, native: bool
) -> None:
    patched = injected(pod, native=native, secretMounts=[KEYS], configMapMounts=[AUTHORITY])
    container = sidecar_of(patched)
    # Files of volumes are root's, and the sidecar is in no group of root's.
    assert source_at(patched, container, "/etc/embercache/keys") == {
        "secret": {"secretName": "cache-keys", "defaultMode": 0o444}
    }
    assert source_at(patched, container, "/etc/embercache/ca") == {
        "configMap": {"name": "pool-ca", "defaultMode": 0o444}
    }


@pytest.mark.parametrize("native", [True, False])
def test_no_other_container_has_them(pod: dict[str, Any], injected: Injected, native: bool) -> None:
    patched = injected(pod, native=native, secretMounts=[KEYS], configMapMounts=[AUTHORITY])
    others = [
        container
        for key in ("initContainers", "containers")
        for container in patched["spec"][key]
        if container["name"] != "embercache"
    ]
    assert len(others) == 2
    for container in others:
        assert [each["name"] for each in container.get("volumeMounts", [])] in (
            [],
            ["embercache-socket"],
        )


def test_what_is_optional_keeps_no_pod_waiting(
    pod: dict[str, Any], injected: Injected, sidecar_of: SidecarOf
) -> None:
    optional = {"optional": True}
    patched = injected(pod, secretMounts=[KEYS | optional], configMapMounts=[AUTHORITY | optional])
    container = sidecar_of(patched)
    assert source_at(patched, container, KEYS["path"])["secret"]["optional"] is True
    assert source_at(patched, container, AUTHORITY["path"])["configMap"]["optional"] is True


def test_names_of_the_pod_s_own_volumes_are_left_to_it(
    pod: dict[str, Any], injected: Injected, sidecar_of: SidecarOf
) -> None:
    own = [
        {"name": name, "emptyDir": {"sizeLimit": "1Gi"}}
        for name in ("embercache-files", "embercache-files-2", "embercache-no-token")
    ]
    pod["spec"]["volumes"] = copy.deepcopy(own)
    patched = injected(pod, secretMounts=[KEYS], configMapMounts=[AUTHORITY])
    assert patched["spec"]["volumes"][:3] == own
    container = sidecar_of(patched)
    assert "secret" in source_at(patched, container, KEYS["path"])
    assert "configMap" in source_at(patched, container, AUTHORITY["path"])
    names = [each["name"] for each in patched["spec"]["volumes"]]
    assert len(set(names)) == len(names) == 7


@pytest.mark.parametrize("key", ["containers", "initContainers"])
def test_a_container_that_names_a_volume_before_it_is_there_does_not_get_one_of_the_sidecar_s(
    pod: dict[str, Any], injected: Injected, key: str
) -> None:
    hoped = [{"name": name, "mountPath": f"/{name}"} for name in ("embercache-files", "x")]
    pod["spec"][key][0]["volumeMounts"] = hoped
    patched = injected(pod, secretMounts=[KEYS])
    assert "embercache-files" not in [each["name"] for each in patched["spec"]["volumes"]]


def test_the_sidecar_has_an_empty_folder_in_place_of_the_token_of_its_pod(
    pod: dict[str, Any], injected: Injected, sidecar_of: SidecarOf
) -> None:
    patched = injected(pod)
    assert source_at(patched, sidecar_of(patched), TOKEN) == {"emptyDir": {}}


def test_a_pod_that_has_its_sidecar_gets_no_more_files(
    pod: dict[str, Any], injected: Injected
) -> None:
    patched = injected(pod)
    settings = InjectorSettings.model_validate({"secretMounts": [KEYS]})
    assert inject(patched, namespace="shop", settings=settings, native=True) == Injection()


@pytest.mark.parametrize("native", [True, False])
def test_a_pod_with_files_is_valid_and_stays_restricted(
    pod: dict[str, Any],
    injected: Injected,
    violations: Callable[[dict[str, Any]], set[str]],
    check_schema: Callable[[dict[str, Any]], None],
    native: bool,
) -> None:
    before = violations(pod)
    mounts = {"secretMounts": [KEYS], "configMapMounts": [AUTHORITY | {"optional": True}]}
    patched = injected(pod, native=native, **mounts)
    check_schema(patched)
    assert violations(patched) == before
