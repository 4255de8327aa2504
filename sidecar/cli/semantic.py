"""``embercache semantic``: which threshold to choose for semantic answers."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from sidecar.cache.guard import contradiction
from sidecar.cli.calibration import Judged, answers_needed, calibrate, recommend
from sidecar.cli.connection import address_option, connected
from sidecar.cli.pairs import read_pairs
from sidecar.cli.parameters import NumberType
from sidecar.cli.words import band_edges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache import Client, EmbedResult, SemanticBand

    from sidecar.cli.calibration import Rates, Recommendation, Row
    from sidecar.cli.pairs import Pair

# Of a large file on a busy CPU.
_EMBED_SECONDS = 600.0
_WIDTH = 120  # where there is no terminal to ask


@click.group()
def semantic() -> None:
    """Choose the threshold of semantic answers."""


@semantic.command("calibrate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@address_option
@click.option("--model", default="", help="a model's name  [default: the sidecar's first]")
@click.option(
    "--max-wrong",
    type=NumberType(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="largest share of the answers that may be wrong",
)
@click.option("--json", "as_json", is_flag=True, help="all figures, as one JSON object")
def calibrate_command(
    file: Path, address: str, model: str, max_wrong: float, as_json: bool
) -> None:
    """Try thresholds on labelled pairs of queries.

    FILE has one JSON object a line, {"a": "a query", "b": "another", "same": true}, where "same"
    says whether one answer is right for both. A file named .csv or .tsv has a header with these
    names. The pairs should be such as meet in your traffic: a query, and the nearest one that was
    asked before. Files of chosen pairs, however hard, tell nothing about how often they occur.

    The hit rate is the share of the pairs that mean the same of which one would be answered from
    the other. The wrong-hit rate is the share of those answers that are wrong; with its 95 %
    interval. Both without and with the guard, which is always there.

    \b
    Examples:
      embercache semantic calibrate pairs.jsonl
      embercache semantic calibrate pairs.csv --max-wrong 0.05 --json
    """
    pairs = read_pairs(file)
    with connected(address) as client:
        judged, result = _judge(client, pairs, model)
    rows = calibrate(judged)
    recommendation = recommend(rows, max_wrong)
    if as_json:
        figures = {
            "model": result.model,
            "model_version": result.model_version,
            "pairs": len(judged),
            "same": sum(pair.same for pair in judged),
            "truncated": len(pairs) - len(judged),
            "max_wrong": max_wrong,
            **asdict(recommendation),
            "thresholds": [asdict(row) for row in rows],
        }
        click.echo(json.dumps(figures, indent=2))
        return
    same = sum(pair.same for pair in judged)
    click.echo(
        f"{len(judged):,} pairs, {same:,} of which mean the same; {result.model} in version"
        f" {result.model_version}"
    )
    if len(judged) < len(pairs):
        click.echo(f"{len(pairs) - len(judged):,} pairs left out: longer than the model reads")
    refused = sum(pair.same and pair.refused for pair in judged)
    click.echo(f"the guard refuses {_share(refused / same if same else None)} of those\n")
    _print(_rows_table(rows))
    click.echo(f"\n{_advice(recommendation, rows, max_wrong)}")


def _judge(client: Client, pairs: Sequence[Pair], model: str) -> tuple[list[Judged], EmbedResult]:
    """The pairs that the model reads whole, each with its similarity."""
    texts = list({text: None for pair in pairs for text in (pair.a, pair.b)})
    places = {text: place for place, text in enumerate(texts)}
    result = client.embed(texts, model=model, input_type="query", timeout=_EMBED_SECONDS)
    vectors = result.vectors / np.linalg.norm(result.vectors, axis=1, keepdims=True)
    judged = []
    for pair in pairs:
        a, b = places[pair.a], places[pair.b]
        # Of these, no semantic answer is given: nobody knows what was not read.
        if not (result.truncated[a] or result.truncated[b]):
            refused = contradiction(pair.a, pair.b) is not None
            judged.append(Judged(pair.same, float(vectors[a] @ vectors[b]), refused))
    return judged, result


def _rows_table(rows: Sequence[Row]) -> Table:
    headings = ("hit rate", "wrong-hit rate (95 %)", "wrong")
    table = _table("threshold", *headings, *(f"{heading}\nwith guard" for heading in headings))
    for row in rows:
        table.add_row(f"{row.threshold:g}", *_cells(row.without_guard), *_cells(row.with_guard))
    return table


def _cells(rates: Rates) -> tuple[str, str, str]:
    interval = f" ({rates.wrong_rate_low:.1%}-{rates.wrong_rate_high:.1%})"
    return (
        _share(rates.hit_rate),
        _share(rates.wrong_rate) + (interval if rates.answered else ""),
        f"{rates.wrong:,} of {rates.answered:,}",
    )


def _advice(recommendation: Recommendation, rows: Sequence[Row], max_wrong: float) -> str:
    threshold = recommendation.threshold
    if threshold is None:
        return (
            f"no threshold keeps the wrong-hit rate under {max_wrong:.2%} in this file: leave"
            " semantic answers off, add a verifier, or use another model"
        )
    rates = next(row.with_guard for row in rows if row.threshold == threshold)
    if recommendation.verdict == "recommended":
        return (
            f"recommended: a threshold of {threshold:g}; hit rate {_share(rates.hit_rate)},"
            f" wrong-hit rate under {rates.wrong_rate_high:.2%} (upper bound at 95 %)"
        )
    return (
        f"the file is too small to tell: at a threshold of {threshold:g}, {rates.wrong:,} of"
        f" {rates.answered:,} answers are wrong, so the rate may be up to"
        f" {rates.wrong_rate_high:.1%}; to be sure of {max_wrong:.2%} takes at least"
        f" {answers_needed(max_wrong):,} answers, none of them wrong"
    )


@semantic.command()
@address_option
@click.option("--namespace", help="this one alone")
@click.option("--json", "as_json", is_flag=True, help="all counts, as one JSON object")
def report(address: str, namespace: str | None, as_json: bool) -> None:
    """Show what became of the semantic lookups of a sidecar, by similarity.

    The similarity of a lookup is that of the query that answered or, if none did, of the nearest.
    "this near" is the share of all lookups that were in this band or above: at a threshold at its
    lower edge, guard and verifier would be asked for so many.

    \b
    Examples:
      embercache semantic report
      embercache semantic report --namespace shop --json
    """
    with connected(address) as client:
        namespaces = {each.namespace: each.bands for each in client.stats().semantic}
    if namespace is not None:
        namespaces = {namespace: namespaces[namespace]} if namespace in namespaces else {}
    if as_json:
        counts = {name: [asdict(band) for band in bands] for name, bands in namespaces.items()}
        click.echo(json.dumps(counts, indent=2))
        return
    if not namespaces:
        click.echo("no semantic answer has been looked for since the sidecar started")
    for name, bands in namespaces.items():
        click.echo(f"{name}: {sum(band.looked_up for band in bands):,} lookups")
        _print(_bands_table(bands))


def _bands_table(bands: Sequence[SemanticBand]) -> Table:
    table = _table("similarity", "looked up", "this near", "answered", "guard", "verifier", "below")
    total = sum(band.looked_up for band in bands)
    near = 0
    for band in reversed(bands):
        near += band.looked_up
        if not band.looked_up:
            continue
        table.add_row(
            band_edges(band.start, band.end),
            f"{band.looked_up:,}",
            _share(near / total),
            f"{band.answered:,}",
            f"{band.refused_by_guard:,}",
            f"{band.refused_by_verifier:,}",
            f"{band.below_threshold:,}",
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False).print(table)


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
