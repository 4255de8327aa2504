"""``embercache config``: what is set, and whether it is right."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import yaml

from sidecar.cli.options import settings_options
from sidecar.config_sources import ENVIRONMENT_PREFIX, all_settings
from sidecar.config_values import all_values, is_secret, plain
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config import Settings

# Read elsewhere: by the option --config, and by clients in the same environment.
_OTHER_VARIABLES = {
    f"EMBERCACHE_{name}"
    for name in ("CONFIG", "ADDRESS", "TOKEN_FILE", "CA_FILE", "CERT_FILE", "KEY_FILE")
}


@click.group()
def config() -> None:
    """Check settings, or show them."""


@config.command()
@settings_options
def check(settings: Settings) -> None:
    """Check flags, environment and file; name every field that is wrong.

    Also reads the policy, the files of tokens that it names, the keys of encryption and the salt,
    as a start does. Nothing of them is shown.

    \b
    Examples:
      embercache config check --config embercache.yaml
    """
    known = {setting.variable for setting in all_settings()} | _OTHER_VARIABLES
    for name in sorted(os.environ):
        # Kubernetes describes a service named embercache in variables of its own.
        kubernetes = name.startswith(("EMBERCACHE_SERVICE_", "EMBERCACHE_PORT"))
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known and not kubernetes:
            click.echo(f"warning: {name} is not a setting and has no effect", err=True)
    if problems := list(_problems_of_files(settings)):
        raise click.ClickException("\n".join(problems))
    click.echo("settings are right")


def _problems_of_files(settings: Settings) -> Iterator[str]:
    """What would keep a sidecar from starting, of each file of secrets and of the policy."""
    # They take as long to import as all else here, and only this needs them.
    from sidecar.open_access import read_access
    from sidecar.open_sealing import open_keys, with_salt

    for read in (read_access, open_keys, with_salt):
        try:
            read(settings)
        except SetupError as error:
            yield str(error)


@config.command()
@settings_options
def show(settings: Settings) -> None:
    """Show every setting as YAML, each with its meaning. Secrets are not shown.

    \b
    Examples:
      embercache config show > embercache.yaml
    """
    section = ""
    for setting, value in all_values(settings):
        if setting.section != section:
            section = setting.section
            click.echo(f"{section}:")
        meaning = setting.field.description
        if is_secret(setting):
            state = "set" if value.get_secret_value() else "not set"
            click.echo(f"  # {setting.name}: {state}; {setting.variable}: {meaning}")
        else:
            text = yaml.safe_dump(plain(setting, value), default_style='"', width=1000).strip()
            click.echo(f"  {setting.name}: {text}  # {meaning}")
