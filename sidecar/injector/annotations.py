"""What pods say of their sidecar: labels and annotations of ours, in one table.

The fields of `Overrides` are the table. A field's name, with ``-`` for ``_``, is the annotation's.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sidecar.injector import values
from sidecar.injector.errors import AnnotationError
from sidecar.injector.patch import PatchError, read_operations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from sidecar.injector.patch import Operation
    from sidecar.injector.values import SecretKey

PREFIX = "embercache.io/"
INJECT_LABEL = f"{PREFIX}inject"
"""``"true"`` asks for a sidecar, ``"false"`` declines it; on a pod or a namespace."""
STATUS_LABEL = f"{PREFIX}status"
STATUS_INJECTED = "injected"
VERSION_ANNOTATION = f"{PREFIX}injector-version"
"""Put on an injected pod, to find those that an older injector made."""

_LABELS = {INJECT_LABEL, STATUS_LABEL}
_CONTAINER = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_BOOLEANS = {"true": True, "false": False}


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise ValueError(f"write {listed}, not {values.quoted(text)}")
        return text

    return parse


def _parse_native(text: str) -> bool | None:
    return _BOOLEANS.get(_one_of("auto", "true", "false")(text))


def _parse_containers(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(_CONTAINER.fullmatch(name) for name in names):
        raise ValueError("write names of containers with commas between")
    return names


def _parse_patch(text: str) -> tuple[Operation, ...]:
    try:
        return read_operations(text)
    except PatchError as error:
        raise ValueError(str(error)) from None


def _row(parse: Callable[[str], Any], default: str, description: str) -> dict[str, Any]:
    return {"parse": parse, "default": default, "description": description}


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a pod's annotations say; None where they say nothing."""

    model: str | None = field(
        default=None,
        metadata=_row(
            values.parse_packs,
            "`model` of the injector",
            "Model packs, with commas between; the first is the default.",
        ),
    )
    namespace: str | None = field(
        default=None,
        metadata=_row(
            values.parse_cache_namespace,
            "the pod's Kubernetes namespace",
            "Namespace of the cache for calls that name none.",
        ),
    )
    redis_secret: SecretKey | None = field(
        default=None,
        metadata=_row(
            values.parse_secret_key,
            "`redisSecret` or `redisUrl` of the injector",
            "`NAME` or `NAME/KEY` of a Secret in the pod's namespace that holds the Redis URL;"
            " the key is `url` by default. The pod waits for one that is not there; for that of"
            " the injector it does not.",
        ),
    )
    encoder_target: str | None = field(
        default=None,
        metadata=_row(
            values.parse_target,
            "`encoderTarget` of the injector",
            "What computes the misses: `local`, or addresses, as in the setting `encoder.target`.",
        ),
    )
    log_level: str | None = field(
        default=None,
        metadata=_row(
            _one_of("debug", "info", "warning", "error"),
            "`logLevel` of the injector",
            "Least level of what is logged: `debug`, `info`, `warning` or `error`.",
        ),
    )
    port: int | None = field(
        default=None,
        metadata=_row(
            values.parse_port,
            "`port` of the injector",
            "Port of gRPC on the pod's loopback address, 1024 to 65535.",
        ),
    )
    metrics_port: int | None = field(
        default=None,
        metadata=_row(
            values.parse_port,
            "`metricsPort` of the injector",
            "Port of metrics and probes on the pod's address, 1024 to 65535.",
        ),
    )
    sidecar_cpu_request: str | None = field(
        default=None,
        metadata=_row(
            values.parse_cpu,
            "`resources.requests.cpu` of the injector",
            "CPU that the sidecar asks for, such as `250m`.",
        ),
    )
    sidecar_cpu_limit: str | None = field(
        default=None,
        metadata=_row(
            values.parse_cpu,
            "`resources.limits.cpu` of the injector",
            "Most CPU of the sidecar.",
        ),
    )
    sidecar_memory_request: str | None = field(
        default=None,
        metadata=_row(
            values.parse_memory,
            "`resources.requests.memory` of the injector",
            "Memory that the sidecar asks for, such as `512Mi`; at least `16Mi`.",
        ),
    )
    sidecar_memory_limit: str | None = field(
        default=None,
        metadata=_row(
            values.parse_memory,
            "`resources.limits.memory` of the injector",
            "Most memory of the sidecar.",
        ),
    )
    image: str | None = field(
        default=None,
        metadata=_row(
            values.parse_image, "`image` of the injector", "Full reference of the sidecar's image."
        ),
    )
    native_sidecar: bool | None = field(
        default=None,
        metadata=_row(
            _parse_native,
            "`nativeSidecar` of the injector",
            "`true` for an init container that stays, `false` for an ordinary container, `auto` to"
            " leave it to the injector.",
        ),
    )
    containers: tuple[str, ...] | None = field(
        default=None,
        metadata=_row(
            _parse_containers,
            "all but sidecars of others",
            "The containers that get the address and the socket, with commas between.",
        ),
    )
    config_patch: tuple[Operation, ...] | None = field(
        default=None,
        metadata=_row(
            _parse_patch,
            "none",
            "JSON Patch of `add`, `remove`, `replace` and `test` on the sidecar's container.",
        ),
    )


@dataclass(frozen=True, slots=True)
class Annotation:
    """One row of the table."""

    name: str
    attribute: str
    parse: Callable[[str], Any]
    default: str
    description: str


ANNOTATIONS = tuple(
    Annotation(
        name=PREFIX + item.name.replace("_", "-"),
        attribute=item.name,
        **item.metadata,
    )
    for item in fields(Overrides)
)


def is_addressed_to_us(annotations: Collection[str], labels: Collection[str]) -> bool:
    """Whether a pod itself has to do with us, by the names of its annotations and labels.

    Others get a sidecar because their namespace asks, and their authors may not even know of it.
    """
    ours = (name.startswith(PREFIX) and name != VERSION_ANNOTATION for name in annotations)
    return INJECT_LABEL in labels or any(ours)


def read_overrides(annotations: Mapping[str, object], labels: Collection[str]) -> Overrides:
    """What annotations say; ``labels`` are the names of the pod's labels.

    Raises `AnnotationError` for a name in our domain that is unknown or in the wrong place, and
    for a value that is not allowed. Labels of pods that are not addressed to us do not matter.
    """
    known = {annotation.name: annotation for annotation in ANNOTATIONS}
    if is_addressed_to_us(annotations, labels):
        for label in labels:
            _check_label(label, known)
    found: dict[str, Any] = {}
    for name, value in annotations.items():
        if not name.startswith(PREFIX) or name == VERSION_ANNOTATION:
            continue
        if name not in known:
            raise AnnotationError(_unknown("annotation", name, known))
        if not isinstance(value, str):
            raise AnnotationError(f"{name}: the value of an annotation is text: put it in quotes")
        try:
            found[known[name].attribute] = known[name].parse(value.strip())
        except ValueError as error:
            raise AnnotationError(f"{name}: {error}") from None
    return Overrides(**found)


def asks_for_sidecar(labels: Mapping[str, object]) -> bool | None:
    """What the label ``embercache.io/inject`` of a pod or namespace says; None if it is not there.

    Raises `AnnotationError` if it is neither ``"true"`` nor ``"false"``.
    """
    if INJECT_LABEL not in labels:
        return None
    value = labels[INJECT_LABEL]
    if not isinstance(value, str) or value not in _BOOLEANS:
        shown = json.dumps(value, default=str)[:40]
        raise AnnotationError(f'label {INJECT_LABEL}: write "true" or "false", not {shown}')
    return _BOOLEANS[value]


def markdown_table() -> str:
    """The annotations as a table for the documentation."""
    rows = [f"| `{item.name}` | {item.default} | {item.description} |" for item in ANNOTATIONS]
    return "\n".join(["| Annotation | Default | Meaning |", "|---|---|---|", *rows])


def _check_label(label: str, known: Iterable[str]) -> None:
    if not label.startswith(PREFIX) or label in _LABELS:
        return
    if label in known:
        raise AnnotationError(f"{label} is an annotation, not a label: put it under annotations")
    raise AnnotationError(_unknown("label", label, _LABELS))


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    if what == "annotation" and name in _LABELS:
        return f"{name} is a label, not an annotation: put it under labels"
    names = sorted(each.removeprefix(PREFIX) for each in known)
    near = difflib.get_close_matches(name.removeprefix(PREFIX), names, n=1)
    guess = f"did you mean {PREFIX}{near[0]}? " if near else ""
    return f"there is no {what} {name}; {guess}The names after {PREFIX} are: {', '.join(names)}"
