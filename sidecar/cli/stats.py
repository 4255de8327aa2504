"""``embercache stats``: what a sidecar did since it started."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console, Group
from rich.live import Live

from sidecar.cli.connection import address_option, connected
from sidecar.cli.duration import DurationType
from sidecar.cli.stats_tables import hit_rate, page

if TYPE_CHECKING:
    from embercache import Client

_WIDTH = 120  # where there is no terminal to ask


@click.command()
@address_option
@click.option("--json", "as_json", is_flag=True, help="all counters, as one JSON object")
@click.option("--watch", is_flag=True, help="again and again until Ctrl-C, with rates")
@click.option(
    "--every",
    type=DurationType(),
    default="2s",
    show_default=True,
    help="with --watch: time between two looks, like 500ms or 5s",
)
@click.pass_context
def stats(ctx: click.Context, /, address: str, as_json: bool, watch: bool, every: float) -> None:
    """Show what a sidecar answered since it started, by tier, model and use.

    The hit rate is the share of inputs that the hot, disk and warm tiers answered. Entries and
    sizes are known of the hot and the disk tier only. In the table by kind, namespace and model,
    "saved" is time that the model would have taken, "money" what that would have cost at the
    prices that are set, and the cache saves time where the hit rate is above "pays from". Of
    generators, prefill and decode are tokens a second; "reused" is the share of the tokens of
    prompts that did not have to be read again, followed by how many came from which tier.

    \b
    Examples:
      embercache stats
      embercache stats --address unix:/run/embercache.sock
      embercache stats --json | jq .hit_rate
      embercache stats --watch --every 5s
    """
    if watch and as_json:
        raise click.UsageError("give --watch or --json, not both")
    if not watch and ctx.get_parameter_source("every") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--every goes with --watch")
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    with connected(address) as client:
        if watch:
            _watch(client, address, every, console)
            return
        answer = client.stats()
    if as_json:
        click.echo(json.dumps({"hit_rate": hit_rate(answer), **asdict(answer)}, indent=2))
        return
    console.print(Group(*page(answer, address)))


def _watch(client: Client, address: str, every: float, console: Console) -> None:
    """Shows the counters until it is interrupted; in one place if there is a terminal."""
    before = None
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                answer = client.stats()
                shown = Group(*page(answer, address, before))
                if console.is_terminal:
                    live.update(shown, refresh=True)
                else:
                    console.print(shown, "")
                before = answer
                time.sleep(every)
    except KeyboardInterrupt:
        return
