"""AdmissionReviews as the API server sends them, whoever has written the pod in them.

An answer is always to be had, and a fault of the injector (outcome "failed" with a look into its
log) is a bug. What is changed in a pod is applied, and a second review leaves it alone.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

from sidecar.injector import review
from sidecar.injector.annotations import ANNOTATIONS, PREFIX
from sidecar.injector.patch import apply
from sidecar.injector.review import BadRequestError, Reviewer
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (BadRequestError,)
MAX_BYTES = 8192
IS_JSON = True
TOKENS = tuple(annotation.name for annotation in ANNOTATIONS)


class _NoFaults:
    """In the place of the log: a fault of the injector is raised."""

    def exception(self, _event: str, **_fields: Any) -> None:
        raise AssertionError from sys.exception()

    def warning(self, *_: Any, **__: Any) -> None:
        pass

    debug = info = warning


review._log = _NoFaults()
_REVIEWER = Reviewer(InjectorSettings(), own_namespace="embercache", native=lambda: True)
_ANNOTATIONS = {
    "model": "minilm,/models/own", "namespace": "shop", "redis-secret": "redis/url",
    "encoder-target": "dns:///encoder:50551", "log-level": "debug", "port": "50551",
    "metrics-port": "9464", "sidecar-cpu-request": "250m", "sidecar-memory-limit": "1Gi",
    "image": "embercache:1", "native-sidecar": "false", "containers": "app",
    "config-patch": '[{"op": "add", "path": "/env/-", "value": {"name": "A", "value": "b"}}]',
}  # fmt: skip


def _review(pod: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0",
            "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop",
            "object": pod,
        },
    }


def seeds() -> Iterator[bytes]:
    labels = {f"{PREFIX}inject": "true"}
    app = {"name": "app", "image": "app:1", "ports": [{"containerPort": 8080}]}
    for name, value in _ANNOTATIONS.items():
        metadata = {"name": "p", "labels": labels, "annotations": {f"{PREFIX}{name}": value}}
        yield json.dumps(_review({"metadata": metadata, "spec": {"containers": [app]}})).encode()
    spec = {
        "containers": [app, {"name": "b", "env": [{"name": "A", "value": "b"}]}],
        "initContainers": [{"name": "first", "restartPolicy": "Always"}],
        "volumes": [{"name": "own", "emptyDir": {}}],
        "securityContext": {"runAsUser": 1, "supplementalGroups": [1]},
        "restartPolicy": "Never", "hostNetwork": True, "os": {"name": "linux"}, "nodeSelector": {},
    }  # fmt: skip
    yield json.dumps(_review({"metadata": {"labels": labels}, "spec": spec})).encode()


def run(data: bytes) -> None:
    answer = _REVIEWER.answer(data, namespace_asks=False)
    response = json.loads(json.dumps(answer.review))["response"]
    assert response["allowed"] == (answer.outcome != "denied")
    if "patch" in response:
        operations = json.loads(base64.b64decode(response["patch"]))
        pod = apply(json.loads(data)["request"]["object"], operations)
        again = _REVIEWER.answer(json.dumps(_review(pod)).encode(), namespace_asks=False)
        assert again.outcome in ("skipped", "denied")
