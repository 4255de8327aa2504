"""What holds for every pod, whatever is in it."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.patch import apply
from sidecar.injector.pod import Injection, inject
from sidecar.injector.settings import InjectorSettings

SETTINGS = InjectorSettings()
ADDRESS = {"name": "EMBERCACHE_ADDRESS", "value": "unix:/run/embercache/embercache.sock"}
VOLUME = "embercache-socket"
VOLUMES = (VOLUME, "embercache-no-token")
OURS = ("embercache.io/status", "embercache.io/injector-version")

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda children: (
        st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=4), children, max_size=2)
    ),
    max_leaves=4,
)
unknown = st.dictionaries(st.sampled_from(["x", "future/field", "~", ""]), anything, max_size=2)
variables = st.fixed_dictionaries(
    {"name": st.sampled_from(["A", "B", "EMBERCACHE_ADDRESS"])}, optional={"value": st.text()}
)
mounts = st.fixed_dictionaries(
    {"name": st.just("own"), "mountPath": st.sampled_from(["/", "/run", "/run/embercache-2"])}
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "env": st.none() | st.lists(variables, max_size=3),
        "volumeMounts": st.none() | st.lists(mounts, max_size=2),
        "ports": st.none() | st.lists(st.just({"containerPort": 80}), max_size=1),
        "restartPolicy": st.just("Always"),
    },
)


def containers(*names: str, least: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    def named(chosen: list[str]) -> st.SearchStrategy[list[dict[str, Any]]]:
        return st.tuples(
            *(
                st.builds(
                    lambda body, more, name=name: more | body | {"name": name}, bodies, unknown
                )
                for name in chosen
            )
        ).map(list)

    return st.lists(st.sampled_from(names), min_size=least, unique=True).flatmap(named)


def texts(*keys: str) -> st.SearchStrategy[dict[str, str] | None]:
    return st.none() | st.dictionaries(st.sampled_from(keys), st.text(max_size=3), max_size=2)


specs = st.builds(
    lambda more, spec: more | spec,
    unknown,
    st.fixed_dictionaries(
        {"containers": containers("app", "worker", "linkerd-proxy", least=1)},
        optional={
            "initContainers": st.none()
            | containers("migrate", "istio-init", "istio-proxy", least=0),
            "volumes": st.none() | st.lists(st.just({"name": "own", "emptyDir": {}}), max_size=1),
            "securityContext": st.none()
            | st.fixed_dictionaries(
                {"runAsUser": st.integers(0, 3)},
                optional={"supplementalGroups": st.none() | st.lists(st.integers(), max_size=2)},
            ),
            "hostNetwork": st.booleans(),
            "shareProcessNamespace": st.booleans(),
            "terminationGracePeriodSeconds": st.none() | st.integers(0, 10**6),
            "ephemeralContainers": st.just([{"name": "debug"}]),
        },
    ),
)
pods = st.builds(
    lambda more, pod: more | pod,
    unknown,
    st.fixed_dictionaries(
        {"spec": specs},
        optional={
            "metadata": st.none()
            | st.fixed_dictionaries(
                {"name": st.text(max_size=3)},
                optional={"labels": texts("app", "a/b"), "annotations": texts("note", "a/b")},
            )
        },
    ),
)


def injected(pod: dict[str, Any], *, native: bool) -> dict[str, Any]:
    result = inject(pod, namespace="shop", settings=SETTINGS, native=native)
    # As it goes over the wire.
    patched: dict[str, Any] = apply(pod, json.loads(json.dumps(result.operations)))
    return patched


def without_sidecar(patched: dict[str, Any], original: dict[str, Any]) -> dict[str, Any]:
    """Takes away what the injector adds."""
    pod = copy.deepcopy(patched)
    metadata, spec = pod["metadata"], pod["spec"]
    del metadata["labels"][OURS[0]]
    del metadata["annotations"][OURS[1]]
    spec["volumes"] = [each for each in spec["volumes"] if each["name"] not in VOLUMES]
    groups = (original["spec"].get("securityContext") or {}).get("supplementalGroups") or []
    spec["securityContext"]["supplementalGroups"] = spec["securityContext"]["supplementalGroups"][
        : len(groups)
    ]
    for key in ("containers", "initContainers"):
        spec[key] = [each for each in spec.get(key) or [] if each["name"] != "embercache"]
        for container in spec[key]:
            if container.get("env") and container["env"][0] == ADDRESS:
                del container["env"][0]
            mounts_left = container.get("volumeMounts") or []
            container["volumeMounts"] = [each for each in mounts_left if each["name"] != VOLUME]
    return pod


def without_empty(value: Any) -> Any:
    """Where nothing was, an empty list or object may be left."""
    if isinstance(value, dict):
        cleaned = {key: without_empty(each) for key, each in value.items()}
        return {key: each for key, each in cleaned.items() if each not in (None, [], {})}
    return [without_empty(each) for each in value] if isinstance(value, list) else value


@given(pod=pods, native=st.booleans())
def test_what_the_injector_added_taken_away_again_leaves_the_pod_as_it_was(
    pod: dict[str, Any], native: bool
) -> None:
    before = copy.deepcopy(pod)
    patched = injected(pod, native=native)
    assert pod == before
    assert without_empty(without_sidecar(patched, pod)) == without_empty(pod)


@given(pod=pods, native=st.booleans(), again=st.booleans())
def test_injecting_twice_is_the_same_as_once(
    pod: dict[str, Any], native: bool, again: bool
) -> None:
    patched = injected(pod, native=native)
    assert inject(patched, namespace="other", settings=SETTINGS, native=again) == Injection()


def meshed_until(inits: list[dict[str, Any]]) -> int:
    """The number of init containers up to the native proxy of a mesh."""
    proxies = [
        number
        for number, each in enumerate(inits, start=1)
        if each["name"] == "istio-proxy" and each.get("restartPolicy") == "Always"
    ]
    return max(proxies, default=0)


@given(pod=pods, native=st.booleans())
def test_a_pod_has_one_sidecar_and_every_container_beside_it_has_an_address_and_the_socket_once(
    pod: dict[str, Any], native: bool
) -> None:
    spec = injected(pod, native=native)["spec"]
    inits, apps = spec.get("initContainers") or [], spec["containers"]
    names = [each["name"] for each in (inits if native else apps)]
    place = names.index("embercache")
    assert ADDRESS not in (inits if native else apps)[place]["env"]
    assert sum(each["name"] == "embercache" for each in [*inits, *apps]) == 1
    assert place == (len(names) - 1 if not native else meshed_until(inits))
    ordinary = [each for each in inits[place:] if each.get("restartPolicy") != "Always"]
    for container in [*(ordinary if native else []), *apps]:
        if container["name"] not in ("embercache", "istio-proxy", "linkerd-proxy"):
            assert any(each["name"] == "EMBERCACHE_ADDRESS" for each in container["env"])
            assert sum(each["name"] == VOLUME for each in container["volumeMounts"]) == 1
    if not native:
        assert inits == (pod["spec"].get("initContainers") or [])


@given(pod=pods, native=st.booleans(), data=st.data())
def test_containers_added_anywhere_by_another_webhook_are_all_that_a_reinvocation_changes(
    pod: dict[str, Any], native: bool, data: st.DataObject
) -> None:
    patched = injected(pod, native=native)
    place = data.draw(st.integers(0, len(patched["spec"]["containers"])))
    patched["spec"]["containers"].insert(place, {"name": "added"})
    again = injected(patched, native=native)
    added = again["spec"]["containers"].pop(place)
    assert added["env"] == [ADDRESS]
    assert [each["name"] for each in added["volumeMounts"]] == [VOLUME]
    del patched["spec"]["containers"][place]
    assert again == patched
