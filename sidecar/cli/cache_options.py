"""Options of how a call uses the cache, which several commands take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.duration import DurationType

if TYPE_CHECKING:
    from collections.abc import Callable


def _as_the_client_writes_it(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    return value.replace("-", "_")


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command ``namespace``, ``mode``, ``ttl`` and ``tags``, as the client takes them."""
    for option in (
        click.option(
            "--tag", "tags", multiple=True, help="tag to invalidate it by; may be repeated"
        ),
        click.option(
            "--ttl", type=DurationType(), help="lifetime of what is stored, like 90s or 24h"
        ),
        click.option(
            "--mode",
            type=click.Choice(["default", "refresh", "bypass", "no-store", "only-if-cached"]),
            default="default",
            callback=_as_the_client_writes_it,
            help="how to use the cache: refresh computes anew and replaces, bypass neither reads"
            " nor stores, no-store only reads, only-if-cached computes nothing",
        ),
        click.option("--namespace", default="", help="part of the cache to use"),
    ):
        command = option(command)
    return command


semantic_option: Callable[[click.decorators.FC], click.decorators.FC] = click.option(
    "--semantic/--no-semantic",
    default=None,
    help="allow the answer to another query or prompt of the same meaning, or forbid it"
    "  [default: as the sidecar is set]",
)
