"""``embercache invalidate`` and ``embercache flush``: to be rid of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from embercache import Entity

from sidecar.cli.connection import address_option, connected

if TYPE_CHECKING:
    from embercache import EmbedInput
    from embercache.types import FlushableTier, InputType


@click.command()
@click.option(
    "--tag",
    "tags",
    multiple=True,
    help="every entry with this tag; with --id, --text: those stored with it; may be repeated",
)
@click.option("--id", "ids", multiple=True, help="the entity of this id; may be repeated")
@click.option("--chunk-id", default="", help="with one --id: this part of it only")
@click.option("--text", "texts", multiple=True, help="this text; may be repeated")
@click.option("--whole-namespace", is_flag=True, help="everything in the namespace")
@click.option("--namespace", default="", help="where the entries are")
@click.option("--model", default="", help="with --id, --text: the model  [default: the first]")
@click.option(
    "--input-type",
    type=click.Choice(["query", "document"]),
    help="with --id, --text: as in the calls that stored them",
)
@address_option
def invalidate(
    tags: tuple[str, ...],
    ids: tuple[str, ...],
    chunk_id: str,
    texts: tuple[str, ...],
    whole_namespace: bool,
    namespace: str,
    model: str,
    input_type: InputType | None,
    address: str,
) -> None:
    """Make entries invalid, on every sidecar that shares the same Redis.

    Nothing is lost but time: what is asked for again is computed again.

    \b
    Examples:
      embercache invalidate --tag release-7
      embercache invalidate --id document-17 --namespace shop
      embercache invalidate --whole-namespace --namespace shop
    """
    by_input = bool(ids or texts)
    if (bool(tags) and not by_input) + by_input + whole_namespace != 1:
        raise click.UsageError("give --tag, or --id and --text, or --whole-namespace")
    if chunk_id and len(ids) != 1:
        raise click.UsageError("--chunk-id goes with exactly one --id")
    inputs: list[EmbedInput] = [*texts, *(Entity(name, chunk_id=chunk_id) for name in ids)]
    with connected(address) as client:
        client.invalidate(
            tags=tags or None,
            inputs=inputs or None,
            whole_namespace=whole_namespace,
            namespace=namespace,
            model=model,
            input_type=input_type,
        )
    if whole_namespace:
        what = "everything"
    elif not by_input:
        what = f"every entry with the tag {' or '.join(tags)}"
    else:
        what = f"the entries of {len(inputs):,} inputs"
    click.echo(f"invalidated {what} in the namespace {namespace or 'default'}")


@click.command()
@click.option(
    "--tier",
    "tiers",
    multiple=True,
    type=click.Choice(["hot", "disk"]),
    help="may be repeated  [default: both]",
)
@address_option
def flush(tiers: tuple[FlushableTier, ...], address: str) -> None:
    """Empty the hot and the disk tier of one sidecar.

    Nothing becomes invalid: what Redis holds is served again. To be rid of wrong entries, use
    `embercache invalidate`.

    \b
    Examples:
      embercache flush
      embercache flush --tier hot
    """
    with connected(address) as client:
        entries = client.flush(tiers)
    click.echo(f"removed {entries:,} entries")
