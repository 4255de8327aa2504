"""``embercache events``: tells of documents that changed outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from embercache import Event

from sidecar.cli.connection import address_option, connected
from sidecar.cli.words import counted, named_namespace

if TYPE_CHECKING:
    from embercache.types import EventType


@click.group()
def events() -> None:
    """Tell of documents that changed outside."""


@events.command()
@click.option(
    "--type",
    "event_type",
    type=click.Choice(["created", "updated", "deleted"]),
    required=True,
    help="what happened to the documents",
)
@click.option("--id", "ids", multiple=True, help="a document; may be repeated")
@click.option("--collection", default="", help="where the documents are")
@click.option("--namespace", default="", help="where the entries are")
@click.option(
    "--tag", "tags", multiple=True, help="tag to be invalidated with them; may be repeated"
)
@address_option
def publish(
    event_type: EventType,
    ids: tuple[str, ...],
    collection: str,
    namespace: str,
    tags: tuple[str, ...],
    address: str,
) -> None:
    """Say that documents were created, updated or deleted by somebody else than `embercache
    documents`: what depends on them becomes invalid, on every sidecar.

    After "created", any answer of the collection may be another, so all of them go; after
    "updated" and "deleted", those that list one of the documents.

    \b
    Examples:
      embercache events publish --type updated --id document-17 --collection docs
      embercache events publish --type created --collection docs
    """
    event = Event(event_type, ids, collection, namespace, tags)
    with connected(address) as client:
        client.publish_events([event])
    what = f" of {counted(len(ids), 'document')}" if ids else ""
    click.echo(
        f"told all sidecars: {event_type}{what} in the collection {collection or 'default'}"
        f" of {named_namespace(namespace)}"
    )
