"""Settings of the injector: what a sidecar gets unless the pod's annotations say otherwise."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from sidecar import __version__
from sidecar.config_sources import ConfigError
from sidecar.injector import values

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

SET_BY_INJECTOR = frozenset(
    f"EMBERCACHE_{name}"
    for name in (
        "SERVER_SOCKET",
        "SERVER_ADDRESS",
        "SERVER_METRICS_ADDRESS",
        "SERVER_INSECURE_METRICS",
        "SERVER_DRAIN_DELAY",
        "SERVER_DRAIN_TIMEOUT",
        "REDIS_URL",
        "ENCODER_TARGET",
        "MODEL_PACKS",
        "CACHE_NAMESPACE",
        "LOG_LEVEL",
    )
)
"""Variables of the sidecar that have a setting of their own here."""

DEFAULT_REQUESTS = {"cpu": "100m", "memory": "512Mi"}
"""Asked for where the settings do not: a container that asks for nothing keeps horizontal
autoscaling of its pod from working."""

_ALWAYS_EXCLUDED = frozenset({"kube-system"})
_REDIS_URL = re.compile(r"rediss?(\+sentinel|\+cluster)?://[^\s]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _empty_or(check: Any) -> AfterValidator:
    return AfterValidator(lambda text: check(text) and text if text else text)


def _as_text(value: object) -> object:
    """YAML reads ``cpu: 1`` as a number and ``true`` as a boolean."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


_Quantity = Annotated[str, BeforeValidator(_as_text)]


class Resources(_Section):
    """What a container asks for and may use at most, in Kubernetes' shape."""

    requests: dict[str, _Quantity] = Field(default_factory=dict)
    limits: dict[str, _Quantity] = Field(default_factory=dict)

    @field_validator("requests", "limits")
    @classmethod
    def _are_quantities(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            try:
                if name in ("cpu", "memory"):
                    (values.parse_cpu if name == "cpu" else values.parse_memory)(text)
                else:
                    values.parse_quantity(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return value

    @model_validator(mode="after")
    def _fit(self) -> Resources:
        for name, limit in self.limits.items():
            request = self.requests.get(name)
            if request and values.parse_quantity(request) > values.parse_quantity(limit):
                raise ValueError(
                    f"the request of {name}, {request}, is more than its limit, {limit}"
                )
        return self


_ObjectName = Annotated[str, AfterValidator(values.parse_object_name)]
_MountPath = Annotated[str, AfterValidator(values.parse_mount_path)]


class FileMount(_Section):
    """Something of the pod's namespace whose keys the sidecar has as files in the folder ``path``.

    A pod waits for one that is not there, unless it is ``optional``: then the folder is empty.
    """

    path: _MountPath
    optional: bool = False


class SecretMount(FileMount):
    """A Secret."""

    secret: _ObjectName


class ConfigMapMount(FileMount):
    """A ConfigMap."""

    config_map: _ObjectName


class InjectorSettings(_Section):
    """What a sidecar gets unless annotations say otherwise: the chart's ``sidecar`` values."""

    image: Annotated[str, AfterValidator(values.parse_image)] = Field(
        f"embercache/embercache:{__version__}", description="full reference of the sidecar's image"
    )
    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = Field(
        "", description="when the image is pulled; empty for Kubernetes' default"
    )
    native_sidecar: Annotated[Literal["auto", "true", "false"], BeforeValidator(_as_text)] = Field(
        "auto",
        description="init containers that stay, which Kubernetes has from 1.29; auto looks at the"
        " kubelets",
    )
    model: Annotated[str, _empty_or(values.parse_packs)] = Field(
        "", description="model packs, with commas between; empty for the sidecar's default"
    )
    encoder_target: Annotated[str, _empty_or(values.parse_target)] = Field(
        "", description="what computes the misses; empty for the sidecar itself"
    )
    redis_url: str = Field("", description="Redis, without a password; empty for none")
    redis_secret: Annotated[str, _empty_or(values.parse_secret_key)] = Field(
        "",
        description="NAME or NAME/KEY of a Secret in the pod's namespace that holds Redis' URL; the"
        " key is url by default; where it is not there, sidecars have no Redis",
    )
    port: int = Field(50551, ge=1024, le=65535, description="gRPC on the pod's loopback address")
    metrics_port: int = Field(
        50552, ge=1024, le=65535, description="metrics and probes, on the pod's address"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level of what is logged"
    )
    drain_delay_seconds: float | None = Field(
        None,
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="how long calls are taken after SIGTERM; without it 0 for native sidecars,"
        " which end after the app, and for others most of the pod's grace period",
    )
    resources: Resources = Field(
        default_factory=lambda: Resources(
            requests=dict(DEFAULT_REQUESTS), limits={"memory": "1Gi"}
        ),
        description="requests and limits; what is asked for of CPU and memory is always set",
    )
    env: tuple[dict[str, Any], ...] = Field(
        (), description="further variables of the sidecar, in Kubernetes' shape"
    )
    secret_mounts: tuple[SecretMount, ...] = Field(
        (),
        description="Secrets in the pod's namespace that the sidecar, and it alone, gets as files"
        " in the folder path; pods wait for one that is not there, unless it is optional",
    )
    config_map_mounts: tuple[ConfigMapMount, ...] = Field(
        (), description="ConfigMaps, likewise, such as bundles of certificates"
    )
    run_as_user: int | None = Field(
        65532, ge=1, description="user of the sidecar; null for what the platform assigns"
    )
    run_as_group: int | None = Field(
        65532, ge=1, description="its group, which the pod's containers get too, for the socket"
    )
    excluded_namespaces: tuple[str, ...] = Field(
        (), description="namespaces whose pods are left alone, beside kube-system"
    )

    @field_validator("redis_url")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        if value and not _REDIS_URL.fullmatch(value):
            raise ValueError("write redis://HOST:PORT or rediss://HOST:PORT")
        # A password that was not escaped may hold any of '/', '?', '#' and '@'.
        if "@" in value or "password=" in value.lower():
            raise ValueError(
                "a URL with user or password belongs in a Secret: name that in redisSecret"
            )
        return value

    @field_validator("env")
    @classmethod
    def _are_variables(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for position, variable in enumerate(value):
            name = variable.get("name")
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise ValueError(f"{position}: name must be letters, digits and '_'")
            if name in SET_BY_INJECTOR:
                raise ValueError(f"{name} is set by the injector: use the setting of its own")
            if not isinstance(variable.get("value", ""), str):
                raise ValueError(f"the value of {name} must be text: put it in quotes")
        return value

    @model_validator(mode="after")
    def _agree(self) -> InjectorSettings:
        if self.redis_url and self.redis_secret:
            raise ValueError("set redisUrl or redisSecret, not both")
        if self.port == self.metrics_port:
            raise ValueError("port and metricsPort must not be the same")
        return self

    @model_validator(mode="after")
    def _mounts_are_apart(self) -> InjectorSettings:
        mounts: tuple[FileMount, ...] = (*self.secret_mounts, *self.config_map_mounts)
        taken = (values.SOCKET_FOLDER, values.TOKEN_FOLDER)
        if found := values.first_overlap([*taken, *(mount.path for mount in mounts)]):
            one, other = found
            raise ValueError(
                f"nothing can be mounted at {other} beside {one}: give each Secret and ConfigMap a"
                " folder of its own"
            )
        return self

    @property
    def listens_with_tls(self) -> bool:
        """Whether sidecars have a certificate for what they listen on, metrics and probes too."""
        return any(variable["name"] == "EMBERCACHE_TLS_CERT_FILE" for variable in self.env)

    @property
    def redis_secret_key(self) -> values.SecretKey | None:
        """`redis_secret`, read."""
        return values.parse_secret_key(self.redis_secret) if self.redis_secret else None

    def excludes(self, namespace: str) -> bool:
        """Whether pods of a namespace are left alone."""
        return namespace in _ALWAYS_EXCLUDED or namespace in self.excluded_namespaces


def load_settings(path: Path) -> InjectorSettings:
    """Settings from a YAML file. Raises `ConfigError`, whose message names every wrong field."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: not YAML") from None
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"{path}: not YAML in UTF-8") from None
    if not isinstance(content, dict | None):
        raise ConfigError(f"{path}: the top level must be a mapping of settings")
    try:
        return InjectorSettings.model_validate(content or {})
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors(include_input=False)]
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None


def _explain(detail: ErrorDetails) -> str:
    place = ".".join(map(str, detail["loc"]))
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting"
    return f"{place}: {message}" if place else message
