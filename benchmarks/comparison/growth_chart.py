"""The chart of `benchmarks/growth.py`: time and added memory of both sides against what grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmarks.comparison.benchmarks import OURS, THEIRS
from benchmarks.comparison.growth_parts import PEAK, Measured, Part
from src.pictures.charts import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = {OURS: COLORS[0], THEIRS: COLORS[1]}
COLUMN, HEIGHT = 300, 520  # pixels
MEGABYTE = 1e6


def growth_chart(parts: Mapping[str, Part], points: Mapping[str, Mapping[int, Measured]]) -> Figure:
    """Draw a column per part: the first of its times above, the memory below. Dashed lines: the growth expected."""
    figure = new_figure(COLUMN * len(points), HEIGHT)
    columns = figure.subplots(2, len(points), squeeze=False).T
    for (above, below), (name, measured) in zip(columns, points.items()):
        part = parts[name]
        key, meaning = next(iter(part.times.items()))
        draw_times(above, part, measured, key)
        above.set_title(f"{meaning}, ms", loc="left", fontsize=9)
        for side, color in STYLES.items():
            peaks = [measured[value][side][PEAK] / MEGABYTE for value in measured]
            below.plot(list(measured), peaks, marker=".", color=color, label=side)
        below.set_title("peak memory, MB", loc="left", fontsize=9)
        below.set_ylim(bottom=0)
        for axes in (above, below):
            label_values(axes, list(measured))
        below.set_xlabel(part.title)
    columns[0][0].legend(fontsize=8)
    return figure


def draw_times(axes: Axes, part: Part, measured: Mapping[int, Measured], key: str) -> None:
    values = list(measured)
    for side, color in STYLES.items():
        times = [1000 * measured[value][side][key] for value in values]
        axes.plot(values, times, marker=".", color=color, label=side)
    first = 1000 * measured[values[0]][OURS][key]
    expected = [first * part.factor(values[0], value) for value in values]
    axes.plot(values, expected, color="gray", linestyle="--", label="expected")
    axes.set_yscale("log")


def label_values(axes: Axes, values: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:.0e}".replace("e+0", "e") if value > 999 else str(value) for value in values])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
