"""``embercache invalidate`` and ``embercache flush``: to be rid of entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from embercache import ChatMessage, Entity, Generation, Search

from sidecar.cli.connection import address_option, connected
from sidecar.cli.parameters import all_of
from sidecar.cli.search import where_option
from sidecar.cli.words import counted, named_namespace

if TYPE_CHECKING:
    from embercache import EmbedInput, Filter, InvalidateTarget
    from embercache.types import FlushableTier, InputType, Kind


@click.command()
@click.option(
    "--tag",
    "tags",
    multiple=True,
    help="every entry with this tag; with --id, --text, --query, --prompt: those stored with it;"
    " may be repeated",
)
@click.option("--id", "ids", multiple=True, help="the entity of this id; may be repeated")
@click.option("--chunk-id", default="", help="with one --id: this part of it only")
@click.option("--text", "texts", multiple=True, help="this text; may be repeated")
@click.option(
    "--document",
    "documents",
    multiple=True,
    help="every answer that lists the document of this id; may be repeated",
)
@click.option(
    "--query", "queries", multiple=True, help="the answers to this search; may be repeated"
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="the answers to this prompt, generated without a message of the system and without"
    " options but --model and --tag; may be repeated",
)
@click.option(
    "--kind",
    type=click.Choice(["embed", "search", "rerank", "generate", "prefix"]),
    help="every entry of this kind; prefix is what generators keep of prompts",
)
@click.option(
    "--model-version",
    help="every entry of this version of --model, or of a reranker; '' for the one that is loaded",
)
@click.option("--whole-namespace", is_flag=True, help="everything in the namespace")
@click.option("--namespace", default="", help="where the entries are")
@click.option("--collection", default="", help="with --document, --query: where they are")
@click.option(
    "--model",
    default="",
    help="with --id, --text, --query, --prompt, --model-version: the model  [default: the first]",
)
@click.option(
    "--input-type",
    type=click.Choice(["query", "document"]),
    help="with --id, --text: as in the calls that stored them",
)
@where_option
@click.option("--rerank", is_flag=True, help="with --query: as in the calls that stored them")
@address_option
def invalidate(address: str, **options: Any) -> None:
    """Make entries invalid, on every sidecar that shares the same Redis.

    Give one kind of target: --tag, --id and --text, --document, --query, --prompt, --kind,
    --model-version or --whole-namespace. Nothing is lost but time: what is asked for again is
    computed again.

    \b
    Examples:
      embercache invalidate --tag release-7
      embercache invalidate --id document-17 --namespace shop
      embercache invalidate --document guide/setup.md --collection docs
      embercache invalidate --query "what glows?" --collection docs --where lang=en
      embercache invalidate --kind generate --namespace shop
      embercache invalidate --whole-namespace --namespace shop
    """
    target, what = _target(_Options(**options))
    with connected(address) as client:
        client.invalidate(namespace=options["namespace"], **target)
    click.echo(f"invalidated {what} in {named_namespace(options['namespace'])}")


@dataclass(frozen=True)
class _Options:
    tags: tuple[str, ...]
    ids: tuple[str, ...]
    chunk_id: str
    texts: tuple[str, ...]
    documents: tuple[str, ...]
    queries: tuple[str, ...]
    prompts: tuple[str, ...]
    kind: Kind | None
    model_version: str | None
    whole_namespace: bool
    namespace: str
    collection: str
    model: str
    input_type: InputType | None
    conditions: tuple[Filter, ...]
    rerank: bool


# Which options say more of which targets.
_QUALIFIERS = {
    "--chunk-id": ("chunk_id", ("--id or --text",)),
    "--collection": ("collection", ("--document", "--query")),
    "--model": ("model", ("--id or --text", "--query", "--prompt", "--model-version")),
    "--input-type": ("input_type", ("--id or --text",)),
    "--where": ("conditions", ("--query",)),
    "--rerank": ("rerank", ("--query",)),
}


def _target(given: _Options) -> tuple[InvalidateTarget, str]:
    """What to invalidate, and what to call it."""
    targets = {
        "--tag": bool(given.tags)
        and not (given.ids or given.texts or given.queries or given.prompts),
        "--id or --text": bool(given.ids or given.texts),
        "--document": bool(given.documents),
        "--query": bool(given.queries),
        "--prompt": bool(given.prompts),
        "--kind": given.kind is not None,
        "--model-version": given.model_version is not None,
        "--whole-namespace": given.whole_namespace,
    }
    names = [name for name, is_given in targets.items() if is_given]
    if len(names) != 1:
        found = f"; these are given: {', '.join(names)}" if names else ""
        raise click.UsageError(f"give exactly one of {', '.join(targets)}{found}")
    for option, (attribute, known) in _QUALIFIERS.items():
        if getattr(given, attribute) and names[0] not in known:
            raise click.UsageError(f"{option} goes with {', '.join(known)}")
    match names[0]:
        case "--tag":
            return {"tags": given.tags}, f"every entry with the tag {' or '.join(given.tags)}"
        case "--id or --text":
            return _inputs(given)
        case "--document":
            what = f"every answer that lists {' or '.join(given.documents)}"
            return {"documents": given.documents, "collection": given.collection}, what
        case "--query":
            return _searches(given)
        case "--prompt":
            return _generations(given)
        case "--kind":
            return {"kind": given.kind}, f"every entry of the kind {given.kind}"
        case "--model-version":
            version = f"version {given.model_version}" if given.model_version else "loaded version"
            what = f"every entry of the {version} of {given.model or 'the first model'}"
            return {"model_version": given.model_version, "model": given.model}, what
        case _:
            return {"whole_namespace": True}, "everything"


def _inputs(given: _Options) -> tuple[InvalidateTarget, str]:
    if given.chunk_id and len(given.ids) != 1:
        raise click.UsageError("--chunk-id goes with exactly one --id")
    entities = (Entity(name, chunk_id=given.chunk_id) for name in given.ids)
    inputs: list[EmbedInput] = [*given.texts, *entities]
    target: InvalidateTarget = {
        "inputs": inputs,
        "tags": given.tags,
        "model": given.model,
        "input_type": given.input_type,
    }
    return target, f"the entries of {counted(len(inputs), 'input')}"


def _searches(given: _Options) -> tuple[InvalidateTarget, str]:
    searches = [
        Search(
            query,
            collection=given.collection,
            model=given.model,
            where=all_of(given.conditions),
            rerank=given.rerank,
            tags=given.tags,
        )
        for query in given.queries
    ]
    return {"searches": searches}, f"the answers to {counted(len(searches), 'search')}"


def _generations(given: _Options) -> tuple[InvalidateTarget, str]:
    """A prompt is both what was sent as it is, and what was a user's message."""
    generations = [
        Generation(prompt, model=given.model, tags=given.tags)
        for text in given.prompts
        for prompt in (text, [ChatMessage("user", text)])
    ]
    what = f"the answers to {counted(len(given.prompts), 'prompt')}"
    return {"generations": generations}, what


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
