"""Where settings come from: one declaration for flag, environment variable and YAML field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from sidecar.config import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX = "EMBERCACHE_"


class ConfigError(Exception):
    """Settings that cannot be used. The message names each bad field and where it came from."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of a section, under its three names."""

    section: str
    name: str
    field: FieldInfo

    @property
    def path(self) -> str:
        """Its name in YAML and messages: ``hot.max_bytes``."""
        return f"{self.section}.{self.name}"

    @property
    def flag(self) -> str:
        """Its flag: ``--hot-max-bytes``."""
        return "--" + self.path.replace(".", "-").replace("_", "-")

    @property
    def variable(self) -> str:
        """Its environment variable: ``EMBERCACHE_HOT_MAX_BYTES``."""
        return ENVIRONMENT_PREFIX + self.path.replace(".", "_").upper()


def all_settings() -> Iterator[Setting]:
    """Every setting, in order of declaration."""
    for section, section_field in Settings.model_fields.items():
        model = section_field.annotation
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, field in model.model_fields.items():
                yield Setting(section, name, field)


def load_settings(
    file: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Settings:
    """Settings from a YAML file, an environment and flags (by their `Setting.path`).

    Raises `ConfigError`.
    """
    merged: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    for section, fields in _read_yaml(file).items():
        merged[section] = dict(fields) if isinstance(fields, dict) else fields
    for setting in all_settings():
        for source, value in (
            (setting.variable, environment.get(setting.variable)),
            (setting.flag, flags.get(setting.path)),
        ):
            if value is not None:
                section_values = merged.setdefault(setting.section, {})
                if isinstance(section_values, dict):
                    section_values[setting.name] = value
                    sources[setting.path] = source
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        lines = [_explain(detail, sources, file) for detail in error.errors(include_input=False)]
        raise ConfigError("\n".join(lines)) from None


def _explain(detail: ErrorDetails, sources: Mapping[str, str], file: Path | None) -> str:
    # An unknown name may be a value that went astray, and that may be a secret.
    parts = [part if _is_name(part) else "..." for part in detail["loc"][:2]]
    path = ".".join(map(str, parts)) or "settings"
    origin = sources.get(path, str(file) if file else "")
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "there is no such setting; see 'embercache config show'"
    return f"{path}{f' ({origin})' if origin else ''}: {message}"


def _is_name(part: int | str) -> bool:
    return isinstance(part, int) or re.fullmatch(r"[A-Za-z_]{1,40}", part) is not None


def _read_yaml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {file}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        # Neither the line itself nor what the problem quotes of it: both may hold a secret.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = re.sub(r"""(['"])(?:\\.|(?!\1).)*\1""", "...", error.problem or "")
        raise ConfigError(f"{file}{line}: not YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(
            f"{file}: not YAML: it must be UTF-8 without control characters, dates and numbers in"
            " it must be right, and it must not nest deeply"
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: the top level must be a mapping of sections")
    return {str(section): ({} if fields is None else fields) for section, fields in content.items()}
