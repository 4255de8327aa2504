"""``embercache injector``: runs the admission webhook that gives pods their sidecar."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from sidecar.cli.duration import DurationType
from sidecar.config_sources import ConfigError
from sidecar.config_telemetry import LogSettings
from sidecar.files_in_use import FilesError
from sidecar.injector.run import Address, Options, run
from sidecar.injector.settings import InjectorSettings, load_settings
from sidecar.telemetry.logging import configure_logging
from sidecar.transport.listening import ListenError


class AddressType(click.ParamType[Address]):
    """``HOST:PORT``, or ``[HOST]:PORT`` for IPv6; ``[::]`` is all addresses, those of IPv4 too."""

    name = "address"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Address:
        """As click asks for it."""
        if isinstance(value, Address):
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value} is no HOST:PORT", param, ctx)
        return Address(host.strip("[]"), int(port))


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option("--config", type=_FILE, help="YAML file: what sidecars are like")
@click.option(
    "--cert-file", "certificate", type=_FILE, required=True, help="certificate chain, in PEM"
)
@click.option("--key-file", "key", type=_FILE, required=True, help="its key, in PEM")
@click.option(
    "--address", type=AddressType(), default="[::]:8443", show_default=True, help="webhook, TLS"
)
@click.option(
    "--metrics-address",
    type=AddressType(),
    default="[::]:8080",
    show_default=True,
    help="/livez, /readyz and /metrics",
)
@click.option(
    "--drain-delay",
    "drain_seconds",
    type=DurationType(),
    default="5s",
    show_default=True,
    help="how long to go on after SIGTERM, until the API server knows",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    envvar="EMBERCACHE_LOG_LEVEL",
    show_envvar=True,
    help="least level",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "text"]),
    default="auto",
    show_default=True,
    envvar="EMBERCACHE_LOG_FORMAT",
    show_envvar=True,
    help="auto is text on a terminal, else json",
)
def injector(config: Path | None, log_level: Any, log_format: Any, **options: Any) -> None:
    """Run the admission webhook that gives pods their sidecar, until SIGTERM.

    Pods are sent to POST /mutate by the API server if they have the label embercache.io/inject, and
    to POST /mutate/namespace if their namespace has it. When the certificate's files change, the
    new one is taken into use.

    \b
    Examples:
      embercache injector --config sidecar.yaml --cert-file tls.crt --key-file tls.key
    """
    configure_logging(LogSettings(level=log_level, format=log_format))
    try:
        settings = load_settings(config) if config else InjectorSettings()
        asyncio.run(run(settings, Options(**options), os.environ))
    except ListenError:
        place = options["metrics_address"]
        raise click.ClickException(
            f"cannot serve metrics on {place}: is another process using it? Set --metrics-address"
        ) from None
    except (ConfigError, FilesError, OSError) as error:
        raise click.ClickException(str(error)) from error
