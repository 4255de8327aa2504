"""``embercache models migrate`` and ``rollback``: another model behind a name."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sidecar.cli.connection import address_option, connected
from sidecar.cli.parameters import NumberType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embercache import MigrateModelProgress

_WHAT = {"documents": "documents", "queries": "popular queries"}


@click.command()
@click.argument("model")
@click.option("--to", "other", required=True, help="the model that the name is to mean")
@click.option(
    "--popular",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="most popular queries to embed, of each namespace",
)
@click.option(
    "--per-second",
    type=NumberType(min=0, min_open=True),
    help="most items a second  [default: no limit]",
)
@address_option
def migrate(model: str, other: str, popular: int, per_second: float | None, address: str) -> None:
    """Let the name MODEL mean another model, without a cold start.

    The documents of every collection and the most popular queries are embedded with the other
    model first. MODEL serves as before until then, on every sidecar. If it is interrupted, nothing
    has changed, and what was embedded is not embedded again.

    \b
    Examples:
      embercache models migrate minilm --to minilm-v2
      embercache models migrate minilm --to minilm-v2 --popular 10000 --per-second 100
    """
    step = None
    with connected(address) as client, stage_bars() as show:
        for step in client.migrate_model(model, other, popular=popular, per_second=per_second):
            show(step)
    if step is None or step.stage != "switched":
        raise click.ClickException(f"it ended too early: {model} means what it meant; repeat it")
    click.echo(
        f"{model} means {other} now, on every sidecar; to take it back:"
        f" embercache models rollback {model}"
    )


@click.command()
@click.argument("model")
@address_option
def rollback(model: str, address: str) -> None:
    """Let the name MODEL mean its own model again, on every sidecar.

    \b
    Examples:
      embercache models rollback minilm
    """
    with connected(address) as client:
        client.rollback_model(model)
    click.echo(f"{model} means its own model again, on every sidecar")


@contextlib.contextmanager
def stage_bars() -> Iterator[Callable[[MigrateModelProgress], None]]:
    """What to tell of the progress: a bar for each stage, or a line where there is no terminal."""
    if not sys.stderr.isatty():
        begun: set[str] = set()

        def write_line(step: MigrateModelProgress) -> None:
            if step.stage in _WHAT and step.stage not in begun:
                begun.add(step.stage)
                total = f" {step.total:,}" if step.total else ""
                click.echo(f"embedding{total} {_WHAT[step.stage]}", err=True)

        yield write_line
        return
    columns = (
        TextColumn("{task.description:>15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as progress:
        tasks = {}

        def move_bar(step: MigrateModelProgress) -> None:
            if step.stage not in _WHAT:
                return
            if step.stage not in tasks:
                tasks[step.stage] = progress.add_task(_WHAT[step.stage], total=None, failed="")
            failed = f"{step.failed:,} failed" if step.failed else ""
            total = step.total or None
            progress.update(tasks[step.stage], completed=step.done, total=total, failed=failed)

        yield move_bar
