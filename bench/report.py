"""Tables on standard output, figures in a JSON file."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Gives a benchmark its ``--json FILE``."""
    parser.add_argument("--json", type=Path, help="also write the figures to this file")


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows; numbers with three significant digits or none behind the point."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*map(_text, row))
    Console(width=120).print(table)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The same rows as a table in Markdown."""
    lines = [header, ["---"] * len(header), *([_text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_json(file: Path | None, figures: Mapping[str, Any]) -> None:
    """Writes figures, and what they were measured with, if a file was asked for."""
    if file is None:
        return
    versions = {name: version(name) for name in ("grpcio", "onnxruntime", "redis", "numpy")}
    about = {"python": platform.python_version(), "versions": versions}
    file.write_text(json.dumps({**figures, "measured_with": about}, indent=2) + "\n")


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
