"""The plots of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.rows import BYTES, GENERATION, HIT, MISSES, OURS, RATE, STAMPEDE, WRONG
from bench.plots import pyplot, save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.peers.rows import Row

_OURS, _OTHERS = "#d1495b", "#888888"
_LEAST = 1e-3


def draw_caches(measured: Mapping[str, object], file: Path) -> None:
    """Six rows of the caches."""
    from bench.peers.rows import CACHES

    partial = next(row for row in CACHES if row.title.startswith("64 texts, one"))
    _draw((HIT, RATE, partial, STAMPEDE, BYTES, WRONG), [measured] * 6, file, 2)


def draw_models(misses: Mapping[str, object], generation: Mapping[str, object], file: Path) -> None:
    """All of what models compute."""
    rows = (*MISSES, *GENERATION) if generation else MISSES
    _draw(rows, [misses] * 2 + [generation] * (len(rows) - 2), file, len(rows) // 2)


def _draw(
    rows: Sequence[Row], measured: Sequence[Mapping[str, object]], file: Path, high: int
) -> None:
    wide = len(rows) // high
    figure, panels = pyplot(file.stem).subplots(
        high, wide, figsize=(3.3 * wide, 1.9 * high), layout="constrained", squeeze=False
    )
    for panel, row, each in zip(panels.flat, rows, measured, strict=True):
        _bars(panel, row, each)
    save(figure, file)


def _bars(panel: Axes, row: Row, measured: Mapping[str, object]) -> None:
    values = {name: row.value(each) for name, each in measured.items()}
    shown = {name: value for name, value in values.items() if value is not None}
    colours = [_OURS if name == OURS else _OTHERS for name in shown]
    lengths = [max(value, _LEAST) for value in shown.values()]
    bars = panel.barh(list(shown), lengths, color=colours)
    panel.bar_label(bars, [row.shown(measured[name]) for name in shown], padding=3, fontsize=7)
    panel.invert_yaxis()
    if row.unit != "%":
        panel.set_xscale("log")
    panel.set_xlim(right=max(lengths) * (1.4 if row.unit == "%" else 12))
    panel.set_title(f"{row.title}{' (more is better)' * row.more_is_better}", fontsize=8)
    panel.set_xticks([])
    panel.minorticks_off()
    panel.tick_params(left=False, labelsize=8)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
