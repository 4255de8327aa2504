"""The command ``embercache``."""

from __future__ import annotations

import click

from sidecar import __version__
from sidecar.cli.config import config
from sidecar.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="embercache")
def main() -> None:
    """Embercache: a gRPC sidecar that answers embedding calls from cache."""


for command in (serve, config):
    main.add_command(command)
