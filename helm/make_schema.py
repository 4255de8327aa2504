"""Writes helm/embercache/values.schema.json: python -m helm.make_schema.

Descriptions are the comments in values.yaml; what values may be is said here.
"""

from __future__ import annotations

import json
from typing import Any

from helm.values_file import CHART, Value, read_values

FILE = CHART / "values.schema.json"

Schema = dict[str, Any]

_QUANTITY = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$"
_PACK = r"[A-Za-z0-9._/-]{1,255}(@sha256:[0-9a-f]{64})?"
_NO_SPACE = r"^\S*$"
_LABEL = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_OBJECT_NAME = rf"{_LABEL}(\.{_LABEL})*"


def _text(pattern: str = "", **more: Any) -> Schema:
    return {"type": "string", **({"pattern": pattern} if pattern else {}), **more}


def _number(least: int, most: int | None = None, *types: str) -> Schema:
    bounds = {"minimum": least} | ({"maximum": most} if most is not None else {})
    return {"type": [*types, "integer"] if types else "integer", **bounds}


def _one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _map(values: Schema) -> Schema:
    return {"type": "object", "additionalProperties": values}


def _object(*required: str, **properties: Schema) -> Schema:
    shape: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return shape | ({"required": list(required)} if required else {})


_BOOLEAN = {"type": "boolean"}
_TEXT = _text()
_ANY_OBJECT = {"type": "object"}
_PORT = _number(1024, 65535)
_LOG_LEVEL = _one_of("debug", "info", "warning", "error")
_MONITOR = _one_of("auto", True, False)
_PROMETHEUS_DURATION = _text(r"^([0-9]+(ms|s|m|h|d))+$")
_GO_DURATION = _text(r"^([0-9]+(h|m|s))+$")
_QUANTITIES = _map(
    {"type": ["string", "number"], "pattern": _QUANTITY, "maxLength": 40, "minimum": 0}
)
_NAME = _text(f"^{_OBJECT_NAME}$", maxLength=253)
_NAME_OR_NOTHING = _text(f"^({_OBJECT_NAME})?$", maxLength=253)
_FOLDER = _text(r"^(/\.?[A-Za-z0-9_-][A-Za-z0-9._-]*)+$", maxLength=512)
_ISSUER = _object(name=_TEXT, kind=_TEXT, group=_TEXT) | {
    "dependencies": {"kind": ["name"], "group": ["name"]}
}
_PEERS = _list(_object(namespaceSelector=_ANY_OBJECT, podSelector=_ANY_OBJECT, ipBlock=_ANY_OBJECT))

# What Kubernetes defines, and what several values have in common.
DEFINITIONS: dict[str, Schema] = {
    "affinity": _object(
        nodeAffinity=_ANY_OBJECT, podAffinity=_ANY_OBJECT, podAntiAffinity=_ANY_OBJECT
    ),
    "env": _list(
        _object("name", name=_text(r"^[A-Za-z_][A-Za-z0-9_]*$"), value=_TEXT, valueFrom=_ANY_OBJECT)
    ),
    "peers": _PEERS,
    "pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "resources": _object(limits=_QUANTITIES, requests=_QUANTITIES, claims=_list(_ANY_OBJECT)),
    "strings": _map(_TEXT),
    "podsOrShare": {"type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9]+%$"},
    "tolerations": _list(
        _object(
            key=_TEXT,
            operator=_one_of("Equal", "Exists"),
            value=_TEXT,
            effect=_one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
            tolerationSeconds=_number(0),
        )
    ),
    "topologySpreadConstraints": _list(
        _object(
            *("maxSkew", "topologyKey", "whenUnsatisfiable"),
            maxSkew=_number(1),
            topologyKey=_TEXT,
            whenUnsatisfiable=_one_of("DoNotSchedule", "ScheduleAnyway"),
            labelSelector=_ANY_OBJECT,
            matchLabelKeys=_list(_TEXT),
            minDomains=_number(1),
            nodeAffinityPolicy=_one_of("Honor", "Ignore"),
            nodeTaintsPolicy=_one_of("Honor", "Ignore"),
        )
    ),
}


def _defined(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


# By the last part of a value's path.
BY_NAME: dict[str, Schema] = {
    **{name: _defined(name) for name in DEFINITIONS if name != "strings"},
    **dict.fromkeys(
        (
            "annotations",
            "labels",
            "nodeSelector",
            "podAnnotations",
            "podLabels",
            "commonLabels",
            "webhookAnnotations",
        ),
        _defined("strings"),
    ),
    **dict.fromkeys(("maxSurge", "maxUnavailable"), _defined("podsOrShare")),
    **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), _number(1, None, "null")),
    **dict.fromkeys(("create", "runAsNonRoot", "hostNetwork"), _BOOLEAN),
    **dict.fromkeys(
        ("name", "priorityClassName", "repository", "runtimeClassName", "storageClass", "tag"),
        _TEXT,
    ),
    "drainDelaySeconds": _number(0),
    "duration": _GO_DURATION,
    "enabled": _BOOLEAN,
    "interval": _PROMETHEUS_DURATION,
    "issuerRef": _ISSUER,
    "logLevel": _LOG_LEVEL,
    "maxReplicas": _number(1),
    "metricsPort": _PORT,
    "minReplicas": _number(1),
    "port": _PORT,
    "renewBefore": _GO_DURATION,
    "replicas": _number(0),
    "targetCPUUtilizationPercentage": _number(0),
}

BY_PATH: dict[str, Schema] = {
    **{f"{each}.enabled": _MONITOR for each in ("serviceMonitor", "podMonitor", "prometheusRule")},
    "imagePullSecrets": _list(_object("name", name=_TEXT)),
    "fullnameOverride": _text(r"^([a-z]([-a-z0-9]*[a-z0-9])?)?$", maxLength=40),
    "extraObjects": _list({"type": ["object", "string"]}),
    "podSecurityContext.seccompProfile": _object(
        "type", type=_one_of("RuntimeDefault", "Localhost", "Unconfined"), localhostProfile=_TEXT
    ),
    "image.repository": _text(r"^\S+$"),
    "image.tag": _text(_NO_SPACE),
    "sidecar.image": _text(_NO_SPACE, maxLength=1024),
    "sidecar.imagePullPolicy": _one_of("", "Always", "IfNotPresent", "Never"),
    "sidecar.nativeSidecar": _one_of("auto", "true", "false", True, False),
    "sidecar.model": _text(rf"^({_PACK}( *, *{_PACK})*)?$"),
    "sidecar.encoderTarget": _text(_NO_SPACE, maxLength=2048),
    "sidecar.drainDelaySeconds": {"type": ["number", "null"], "minimum": 0, "maximum": 86400},
    "sidecar.secretMounts": _list(
        _object("secret", "path", secret=_NAME, path=_FOLDER, optional=_BOOLEAN)
    ),
    "sidecar.configMapMounts": _list(
        _object("configMap", "path", configMap=_NAME, path=_FOLDER, optional=_BOOLEAN)
    ),
    # Sidecars share no device of their pods.
    "sidecar.resources": _object(limits=_QUANTITIES, requests=_QUANTITIES),
    "injector.replicas": _number(1),
    "injector.failurePolicy": _one_of("Ignore", "Fail"),
    "injector.timeoutSeconds": _number(1, 30),
    "injector.excludedNamespaces": _list(_text(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")),
    "injector.certificate.source": _one_of("helm", "certManager", "existingSecret"),
    "injector.certificate.validityDays": _number(1),
    "injector.certificate.renewBeforeDays": _number(0),
    "injector.certificate.existingSecret": _TEXT,
    "injector.certificate.caBundle": _text(r"^$|-----BEGIN CERTIFICATE-----"),
    "injector.autoscaling.targetCPUUtilizationPercentage": _number(1),
    "encoder.kind": _one_of("Deployment", "StatefulSet"),
    "encoder.model": _text(rf"^{_PACK}( *, *{_PACK})*$"),
    "encoder.modelVolume.source": _one_of("image", "emptyDir", "claim"),
    "encoder.modelVolume.pull": _BOOLEAN,
    "encoder.modelVolume.existingClaim": _TEXT,
    "encoder.modelVolume.size": _text(_QUANTITY),
    "encoder.gpu.count": _number(1),
    "encoder.gpu.resourceName": _text(r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"),
    "encoder.tls.existingSecret": _NAME_OR_NOTHING,
    "encoder.tls.clientAuth": _BOOLEAN,
    "encoder.tls.clientSecret": _NAME_OR_NOTHING,
    "encoder.tls.caConfigMap": _NAME_OR_NOTHING,
    "encoder.policy.existingSecret": _NAME_OR_NOTHING,
    "encoder.drainTimeoutSeconds": _number(1),
    "encoder.autoscaling.metrics": _list({"type": "object", "required": ["type"]}),
    "encoder.autoscaling.behavior": _object(scaleUp=_ANY_OBJECT, scaleDown=_ANY_OBJECT),
    # Looked at by a template, which does not quote it: it may hold a password.
    "redis.externalUrl": _TEXT,
    "redis.existingSecret": _text(
        r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(/[A-Za-z0-9._-]{1,253})?)?$"
    ),
    "redis.maxMemory": _text(r"^[0-9]+([kKmMgG][bB]?)?$"),
    "networkPolicy.clients": _defined("peers"),
    "networkPolicy.metricsReaders": _defined("peers"),
    "networkPolicy.apiServerPorts": _list(_number(1, 65535)),
    "networkPolicy.encoderEgress": _list(_object(to=_defined("peers"), ports=_list(_ANY_OBJECT))),
    "prometheusRule.runbookUrl": _TEXT,
}

# Beside values.yaml: what Helm, or a chart that this one is a part of, puts there.
_OF_HELM = {
    "global": {"description": "Values that charts share; not used.", **_ANY_OBJECT},
    "enabled": {
        "description": "For the condition of a chart that this one is a part of; not used.",
        **_BOOLEAN,
    },
}


def text() -> str:
    """The whole schema."""
    root: Schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart embercache",
        **_object(**_OF_HELM),
        "definitions": DEFINITIONS,
    }
    sections: dict[tuple[str, ...], Schema] = {(): root}
    for value in read_values():
        shape = _object() if value.is_section else _shape(value)
        sections[value.path[:-1]]["properties"][value.path[-1]] = {
            "description": value.comment,
            **shape,
        }
        sections[value.path] = shape
    return json.dumps(root, indent=2) + "\n"


def _shape(value: Value) -> Schema:
    """What a value may be. Raises KeyError for one that is not described here."""
    path = ".".join(value.path)
    return BY_PATH[path] if path in BY_PATH else BY_NAME[value.path[-1]]


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
