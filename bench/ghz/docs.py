"""Puts the tables and the plot of a run into the documentation, between two marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.ghz.plot import draw
from bench.ghz.tables import made_with, notes, tables
from bench.ghz.tool import ROOT
from bench.report import markdown_table

if TYPE_CHECKING:
    from bench.ghz.measure import Results

PAGE, PLOT = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images" / "ghz.svg"
BEGIN, END = "<!-- ghz:begin -->", "<!-- ghz:end -->"


def write_docs(results: Results) -> None:
    """Replaces the section of the page, and the plot."""
    text = section(results, made_with())
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), text), "utf-8")
    draw(results, PLOT)


def section(results: Results, made_with: str) -> str:
    """The section in Markdown."""
    parts = [f"Measured with {made_with}", *notes(results)]
    for title, header, rows in tables(results):
        parts += [f"{title.capitalize()}:", markdown_table(header, rows)]
    parts.append("![latency under load](images/ghz.svg)")
    return "\n\n".join(parts)


def replaced(page: str, section: str) -> str:
    """The page with another section between its marks; raises `ValueError` if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in before + after:
        raise ValueError(f"{PAGE.name} needs {BEGIN} and, after it, {END}, each once")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"
