"""Options of commands, made from the settings' one declaration."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.config_sources import ConfigError, all_settings, load_settings
from sidecar.config_values import is_secret, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.config_sources import Setting


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``--config`` and a flag for every setting; it gets ``settings``.

    Secrets have no flag: the arguments of a process can be read by others.
    """

    @functools.wraps(command)
    def wrapper(config: Path | None, **values: Any) -> Any:
        flags = {
            setting.path: values.pop(_parameter(setting))
            for setting in all_settings()
            if not is_secret(setting)
        }
        try:
            settings = load_settings(config, os.environ, flags)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        return command(settings=settings, **values)

    for setting in reversed(list(all_settings())):
        if not is_secret(setting):
            wrapper = click.option(
                setting.flag,
                _parameter(setting),
                metavar="VALUE",
                help=_help(setting),
            )(wrapper)
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="EMBERCACHE_CONFIG",
        help="YAML file of settings; flags and EMBERCACHE_* variables win over it",
    )(wrapper)


def _help(setting: Setting) -> str:
    default = plain(setting, setting.field.get_default(call_default_factory=True))
    return f"{setting.field.description}{f'  [default: {default}]' if default else ''}"


def _parameter(setting: Setting) -> str:
    return setting.path.replace(".", "_")
