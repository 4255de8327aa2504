"""The values of settings, as they may be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from pydantic import SecretStr

from sidecar.config_sources import all_settings

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.config_sources import Setting


def is_secret(setting: Setting) -> bool:
    """Whether a setting's value must not be shown."""
    return setting.field.annotation is SecretStr


def all_values(settings: Settings) -> list[tuple[Setting, Any]]:
    """Every setting with its value."""
    return [
        (setting, getattr(getattr(settings, setting.section), setting.name))
        for setting in all_settings()
    ]


def plain(setting: Setting, value: Any) -> str:
    """A setting's value, as one would write it in a flag."""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "never" if _is_lifetime(setting) else ""
    return str(value)


def _is_lifetime(setting: Setting) -> bool:
    return any(float in get_args(option) for option in get_args(setting.field.annotation))
