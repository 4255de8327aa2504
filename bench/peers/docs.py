"""Puts the tables and plots of a run into docs/benchmarks.md, between two marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.drive import ROOT
from bench.peers.plot import draw
from bench.report import markdown_table

if TYPE_CHECKING:
    from bench.peers.comparison import Comparison

PAGE, IMAGES = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "images"
BEGIN, END = "<!-- peers:begin -->", "<!-- peers:end -->"


def write_docs(comparisons: list[Comparison], made_with: str) -> None:
    """Replaces the section of the page, and the plots."""
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), section(comparisons, made_with)), "utf-8")
    for each in comparisons:
        draw(each, IMAGES / each.image)


def section(comparisons: list[Comparison], made_with: str) -> str:
    """The section in Markdown."""
    parts = [made_with]
    for each in comparisons:
        parts += [f"### {each.title}", markdown_table(each.header, each.rows)]
        parts += [f"Not measured: {name}: {why}." for name, why in each.missing.items()]
        parts.append("\n".join(f"- {title}: {said}." for title, said in each.verdicts))
        parts.append(f"![{each.title.lower()}](images/{each.image})")
    return "\n\n".join(parts)


def replaced(page: str, section: str) -> str:
    """The page with another section between its marks; raises `ValueError` if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} needs {BEGIN} and, after it, {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"
