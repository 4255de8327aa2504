"""Gives sidecars to the pods in a file of manifests, before they come to a cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.injector.annotations import INJECT_LABEL, asks_for_sidecar
from sidecar.injector.documents import DocumentError, read_documents
from sidecar.injector.errors import InjectionError
from sidecar.injector.patch import pointer
from sidecar.injector.pod import inject
from sidecar.injector.shape import mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.injector.patch import Operation
    from sidecar.injector.settings import InjectorSettings

_TEMPLATE = ("spec", "template")
_PODS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "PodTemplate"): ("template",),
    ("", "ReplicationController"): _TEMPLATE,
    ("apps", "Deployment"): _TEMPLATE,
    ("apps", "StatefulSet"): _TEMPLATE,
    ("apps", "DaemonSet"): _TEMPLATE,
    ("apps", "ReplicaSet"): _TEMPLATE,
    ("batch", "Job"): _TEMPLATE,
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where an object of an API group and kind has its pod."""


class ManifestError(Exception):
    """Manifests that cannot be injected. Each line of the message names a document and object."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Which pods get a sidecar, and which kind. ``namespace`` is of objects that name none.

    ``everything`` injects pods without our label, too.
    """

    settings: InjectorSettings
    native: bool
    namespace: str
    everything: bool


@dataclass(slots=True)
class Injected:
    """Manifests with sidecars. ``report`` has a line for every pod: what became of it."""

    text: str
    report: list[str] = field(default_factory=list)
    count: int = 0


def inject_manifests(text: str, rules: Rules) -> Injected:
    """Manifests with sidecars in the pods that ask for one; the rest of the text stays as it is.

    Raises `ManifestError`.
    """
    try:
        documents = read_documents(text)
    except DocumentError as error:
        raise ManifestError(str(error)) from None
    result, number = Injected(text), 0
    errors: list[str] = []
    texts: list[str] = []
    for document in documents:
        number += document.value is not None
        operations: list[Operation] = []
        for path, manifest in _objects_in((), document.value):
            name = f"document {number} (line {document.line}), {_name(manifest)}"
            try:
                found, outcome = _inject_one(manifest, rules)
            except InjectionError as error:
                errors.append(f"{name}: {error}")
                continue
            operations += [
                operation | {"path": pointer(path) + operation["path"]} for operation in found
            ]
            if outcome:
                result.report.append(f"{name}: {outcome}")
            result.count += bool(found)
        texts.append(document.patched(operations) if operations else document.text)
    if errors:
        raise ManifestError("\n".join(errors))
    if result.count:
        result.text = "".join(texts)
    return result


def _objects_in(
    path: tuple[str | int, ...], manifest: Any
) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """The object of a document, or those of its list."""
    if not isinstance(manifest, dict):
        return
    items = manifest.get("items")
    if manifest.get("kind") == "List" and isinstance(items, list):
        for index, item in enumerate(items):
            yield from _objects_in((*path, "items", index), item)
    else:
        yield path, manifest


def _inject_one(manifest: dict[str, Any], rules: Rules) -> tuple[list[Operation], str]:
    """The patch of an object, and what to say of it: nothing if it has no pod."""
    path = _PODS.get(_kind(manifest))
    if path is None:
        return [], ""
    pod = mapping(manifest, *path)
    asks = asks_for_sidecar(mapping(pod, "metadata", "labels"))
    if asks is False:
        return [], f'left as it is: it is labelled {INJECT_LABEL}: "false"'
    if asks is None and not rules.everything:
        return [], f'left as it is: it is not labelled {INJECT_LABEL}: "true"'
    namespace = mapping(manifest, "metadata").get("namespace") or rules.namespace
    if not isinstance(namespace, str):
        raise InjectionError("metadata.namespace must be text")
    if rules.settings.excludes(namespace):
        return [], f"left as it is: the namespace {namespace} is excluded"
    result = inject(pod, namespace=namespace, settings=rules.settings, native=rules.native)
    if result.left_alone:
        return [], f"left as it is: {result.left_alone}"
    outcome = "injected" if result.operations else "has its sidecar already"
    prefix = pointer(path)
    return [operation | {"path": prefix + operation["path"]} for operation in result.operations], (
        "; ".join([outcome, *result.warnings])
    )


def _kind(manifest: dict[str, Any]) -> tuple[str, str]:
    group, separator, _ = str(manifest.get("apiVersion")).rpartition("/")
    return group if separator else "", str(manifest.get("kind"))


def _name(manifest: dict[str, Any]) -> str:
    metadata = manifest.get("metadata")
    names = metadata if isinstance(metadata, dict) else {}
    name = names.get("name") or names.get("generateName") or "without a name"
    return f"{manifest.get('kind')} {name}"
