"""The command ``embercache``."""

from __future__ import annotations

import click

from sidecar import __version__
from sidecar.cli.config import config
from sidecar.cli.documents import documents
from sidecar.cli.embed import embed
from sidecar.cli.events import events
from sidecar.cli.generate import generate
from sidecar.cli.invalidate import flush, invalidate
from sidecar.cli.migrate import migrate, rollback
from sidecar.cli.models import models
from sidecar.cli.plan import plan
from sidecar.cli.search import search
from sidecar.cli.semantic import semantic
from sidecar.cli.serve import serve
from sidecar.cli.stats import stats
from sidecar.cli.warm import warm


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="embercache")
def main() -> None:
    """Embercache: a gRPC sidecar that answers model calls from cache.

    \b
    To begin with:
      embercache models pull minilm
      embercache serve --dev
      embercache embed "how warm is an ember?"
      embercache documents add docs/
      embercache search "how warm is an ember?"
    """


for command in (
    serve,
    models,
    embed,
    documents,
    search,
    generate,
    warm,
    stats,
    plan,
    invalidate,
    events,
    flush,
    semantic,
    config,
):
    main.add_command(command)
for command in (migrate, rollback):
    models.add_command(command)
