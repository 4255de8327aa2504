"""The plot of a run: latency at rising rates, and at one rate for every kind of call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.ghz.tables import label
from bench.plots import pyplot, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.ghz.figures import Measured
    from bench.ghz.measure import Results

_GREY, _COLOURS = "#888888", ("#d1495b", "#00798c")


def draw(results: Results, file: Path) -> None:
    """Draws both panels."""
    figure, (ramp, fixed) = pyplot("ghz").subplots(1, 2, figsize=(9, 4), layout="constrained")
    _draw_ramp(ramp, results.ramp)
    _draw_fixed(fixed, results.fixed)
    for panel in (ramp, fixed):
        panel.spines[["top", "right"]].set_visible(False)
    ramp.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
    ramp.yaxis.set_major_formatter("{x:g}")
    fixed.xaxis.set_major_formatter("{x:g}")
    save(figure, file)


def _draw_ramp(panel: Axes, measured: Sequence[Measured]) -> None:
    """Solid: the median. Dotted: the 99th percentile. Hollow: the rate was not kept."""
    colours = iter(_COLOURS)
    for name in dict.fromkeys(map(label, measured)):
        points = [each for each in measured if label(each) == name]
        colour = next(colours) if points[0].answered else _GREY
        rates = [each.sent for each in points]
        fill = [colour if not each.limit else "white" for each in points]
        for quantile, style in ((0, "-"), (2, ":")):
            heights = [each.latency_ms[quantile] for each in points]
            panel.plot(rates, heights, style, color=colour, label=None if quantile else name)
            panel.scatter(rates, heights, c=fill, edgecolors=colour, s=16, zorder=2)
    panel.set(yscale="log", xlabel="calls sent a second", ylabel="ms a call", xlim=(0, None))
    panel.set_title("rising rates: p50, and p99 dotted", fontsize=10)


def _draw_fixed(panel: Axes, measured: Sequence[Measured]) -> None:
    for height, each in enumerate(measured):
        colour = _COLOURS[0] if each.answered else _GREY
        panel.plot(each.latency_ms, [height] * 3, color=colour, alpha=0.4)
        panel.scatter(each.latency_ms, [height] * 3, color=colour, s=16, marker="o")
    names = [f"{label(each)}, {each.rate:,}/s" for each in measured]
    panel.set_yticks(range(len(measured)), names)
    panel.invert_yaxis()
    panel.set(xscale="log", xlabel="ms a call: p50, p95, p99")
    panel.set_title("one rate", fontsize=10)
    panel.tick_params(left=False)
