"""Plots in SVG files that are the same for the same figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from matplotlib.figure import Figure


def pyplot(name: str) -> ModuleType:
    """matplotlib's, set for SVG; the name is mixed into the ids of the file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot as plt

    return plt


def save(figure: Figure, file: Path) -> None:
    """Writes the figure without date and creator."""
    figure.savefig(file, metadata={"Date": None, "Creator": None})
