"""The plot of a comparison: its rows that say most, as bars from nought."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.rows import OURS
from bench.plots import pyplot, save

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.peers.comparison import Comparison
    from bench.peers.rows import Row

_OURS, _OTHERS = "#d1495b", "#888888"


def draw(comparison: Comparison, file: Path) -> None:
    """Bars for each peer, two panels in a line."""
    rows = [row for row in comparison.rows_ if row.plotted]
    lines = -(-len(rows) // 2)
    height = 0.6 + 0.22 * len(comparison.measured)
    figure, panels = pyplot(file.stem).subplots(
        lines, 2, figsize=(9, height * lines), layout="constrained", squeeze=False
    )
    for panel, row in zip(panels.flat, rows, strict=True):
        _bars(panel, row, comparison.measured)
    save(figure, file)


def _bars(panel: Axes, row: Row, measured: Mapping[str, object]) -> None:
    values = {name: row.value(each) for name, each in measured.items()}
    shown = {name: value for name, value in values.items() if value is not None}
    colours = [_OURS if name == OURS else _OTHERS for name in shown]
    bars = panel.barh(list(shown), list(shown.values()), color=colours)
    panel.bar_label(bars, [row.shown(measured[name]) for name in shown], padding=3, fontsize=7)
    panel.invert_yaxis()
    panel.set_xlim(right=max(shown.values()) * 1.4 or 1)
    panel.set_title(row.title + " (more is better)" * row.more_is_better, fontsize=8)
    panel.set_xticks([])
    panel.tick_params(left=False, labelsize=8)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
