"""``embercache search``: finds documents by meaning."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.cli.cache_options import semantic_option
from sidecar.cli.connection import address_option, connected
from sidecar.cli.parameters import ConditionType, all_of
from sidecar.cli.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embercache import Filter, SearchResult

_WIDTH = 120  # where there is no terminal to ask

where_option: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--where",
    "conditions",
    multiple=True,
    type=ConditionType(),
    help='condition on metadata: lang=en, "year>=2000", draft!=true, lang=["en","de"]; a number in'
    ' quotes is a string: zip="02134"; if repeated, all must hold',
)


@click.command()
@click.argument("query")
@click.option(
    "--top-k", type=click.IntRange(1, 1000), default=10, show_default=True, help="most results"
)
@where_option
@click.option("--rerank", is_flag=True, help="order the nearest by a reranker's scores")
@click.option("--collection", default="", help="where to search  [default: the default one]")
@click.option("--namespace", default="", help="part of the cache and index to use")
@click.option("--model", default="", help="a model's name  [default: the sidecar's first]")
@semantic_option
@address_option
@click.option("--json", "as_json", is_flag=True, help="the whole answer, as one JSON object")
def search(
    query: str, conditions: tuple[Filter, ...], address: str, as_json: bool, **options: Any
) -> None:
    """Find the chunks of documents that are nearest to QUERY.

    Above the results is said what answered: a tier of the cache, or "computed".

    \b
    Examples:
      embercache search "what glows?"
      embercache search "what glows?" --collection docs --where lang=en --where "year>=2000"
      embercache search "what glows?" --rerank --top-k 3 --json | jq .results[0].id
    """
    with connected(address) as client:
        started = time.perf_counter()
        result = client.search(query, where=all_of(conditions), **options)
        seconds = time.perf_counter() - started
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    for line in _summary(result, seconds):
        click.echo(line)
    if result.results:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        console.print(_table(result))


def _summary(result: SearchResult, seconds: float) -> Iterator[str]:
    count = counted(len(result.results), "result")
    yield f"{count} in {seconds * 1000:.1f} ms by {result.model}: {_answered(result)}"
    if result.semantic is not None:
        yield (
            f"the answer to another query, of similarity {result.semantic.similarity:.4f}:"
            f" {_one_line(result.semantic.query)}"
        )


def _answered(result: SearchResult) -> str:
    if result.tier in ("hot", "disk", "warm"):
        parts = [f"from the {result.tier} tier, {result.age:,.0f} s old"]
    else:
        parts = [result.tier]
    if result.query_tier != "unspecified":
        parts.append(f"vector of the query: {result.query_tier}")
    if result.rerank_tiers:
        counts = ", ".join(f"{count:,} {tier}" for tier, count in result.rerank_tiers.items())
        parts.append(f"scores of {result.reranker}: {counts}")
    elif result.reranker:
        parts.append(f"reranked by {result.reranker}")
    return "; ".join(parts)


def _table(result: SearchResult) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", expand=True)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    if result.reranker:
        table.add_column("rerank", justify="right", no_wrap=True)
    table.add_column("id", overflow="fold")
    # What the others leave of the line.
    table.add_column("content", no_wrap=True, overflow="ellipsis", ratio=1)
    for rank, hit in enumerate(result.results, 1):
        scores = [f"{hit.score:.4f}"]
        if result.reranker:
            scores.append("-" if hit.rerank_score is None else f"{hit.rerank_score:.4f}")
        name = f"{hit.id}#{hit.chunk_id}" if hit.chunk_id else hit.id
        table.add_row(str(rank), *scores, Text(_one_line(name)), Text(_one_line(hit.content)))
    return table


def _one_line(text: str) -> str:
    """The first line of a text, without what would move a terminal's cursor."""
    line = text.strip().partition("\n")[0]
    return "".join(letter if letter.isprintable() else " " for letter in line)
