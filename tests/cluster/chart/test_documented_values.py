"""The YAML of docs/kubernetes.md does what the page says of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import sidecar.config_sources
import sidecar.injector.settings
from sidecar.injector.patch import apply
from sidecar.injector.pod import inject

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
PAGE = "docs/kubernetes.md"
POD = {"kind": "Pod", "metadata": {"name": "app"}, "spec": {"containers": [{"name": "app"}]}}


@pytest.fixture
def shown(blocks_of: Callable[[str, str], list[str]]) -> list[Any]:
    """What the page shows: values of the chart, and a certificate."""
    return [yaml.safe_load(block) for block in blocks_of(PAGE, "yaml")]


@pytest.fixture
def injected(tmp_path: Path) -> Callable[[Any], dict[str, Any]]:
    """The spec of a pod that the injector of a chart has given its sidecar."""

    def spec(objects: Any) -> dict[str, Any]:
        file = tmp_path / "config.yaml"
        file.write_text(objects.one("ConfigMap", "cache-injector")["data"]["config.yaml"])
        settings = sidecar.injector.settings.load_settings(file)
        found = inject(POD, namespace="shop", settings=settings, native=True)
        patched: dict[str, Any] = apply(POD, found.operations)["spec"]
        return patched

    return spec


def mounts_of(spec: dict[str, Any]) -> dict[str, str]:
    """Where the sidecar has the files of each Secret."""
    (container,) = spec["initContainers"]
    secrets = {
        each["name"]: each["secret"]["secretName"] for each in spec["volumes"] if "secret" in each
    }
    return {
        secrets[each["name"]]: each["mountPath"]
        for each in container["volumeMounts"]
        if each["name"] in secrets
    }


def test_sidecars_look_for_their_keys_where_the_secret_is_mounted(
    helm: Any, shown: list[Any], injected: Callable[[Any], dict[str, Any]]
) -> None:
    values, _ = shown
    spec = injected(helm.render(values))
    (container,) = spec["initContainers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    settings = sidecar.config_sources.load_settings(None, given, {})
    folder = Path(mounts_of(spec)["embercache-keys"])
    # By the names that the page has given the keys of the Secret.
    assert settings.cache.salt_file == folder / "salt"
    assert settings.encryption.keys_file == folder / "keys"


def test_the_certificate_of_a_namespace_is_what_its_sidecars_show_the_pool(
    helm: Any,
    shown: list[Any],
    injected: Callable[[Any], dict[str, Any]],
) -> None:
    _, certificate = shown
    asked = certificate["spec"]
    tls = {"issuerRef": asked["issuerRef"], "clientAuth": True, "clientSecret": asked["secretName"]}
    objects = helm.render({"encoder": {"tls": tls, "policy": {"existingSecret": "pool-policy"}}})
    pool = objects.one("Certificate", "cache-encoder")
    # One and the same issuer, asked in the same words: cert-manager itself is not here.
    assert certificate["apiVersion"] == pool["apiVersion"]
    assert asked["issuerRef"] == pool["spec"]["issuerRef"]
    assert asked.keys() <= pool["spec"].keys()
    assert asked["secretName"] in mounts_of(injected(objects))
    # The policy of the page knows the namespace by the name that the certificate carries.
    (name,) = asked["dnsNames"]
    assert f"certificates: [{name}]" in (ROOT / PAGE).read_text("utf-8")
    assert name == certificate["metadata"]["namespace"]
