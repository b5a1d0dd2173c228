"""A bar chart of ratios: the ratio to the reference with its quartiles, and the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from src.pictures.charts import COLORS, WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW = 34  # pixels per bar


class Bar(NamedTuple):
    """A ratio to the reference with its quartiles; `target` is the minimum (or maximum) to reach."""

    name: str
    value: float
    low: float
    high: float
    target: float | None


def bar_chart(title: str, bars: Sequence[Bar]) -> Figure:
    """Draw one bar below the other, with a line between the quartiles and a mark at the target."""
    figure = new_figure(WIDTH, 80 + ROW * len(bars))
    axes = figure.subplots()
    rows = range(len(bars))
    drawn = axes.barh(rows, [bar.value for bar in bars], color=COLORS[0])
    axes.hlines(rows, [bar.low for bar in bars], [bar.high for bar in bars], color="black")
    axes.bar_label(drawn, [f"{bar.value:.2f}" for bar in bars], label_type="center", color="white")
    targets = [(bar.target, row) for row, bar in enumerate(bars) if bar.target is not None]
    if targets:
        axes.scatter(*zip(*targets), marker="|", s=300, linewidths=3, color=COLORS[1], zorder=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(rows, [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    return figure
