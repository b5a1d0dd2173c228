"""Line charts and confusion matrices, drawn by matplotlib.

matplotlib is imported when the first chart is drawn, because the import takes about a second. Figures are built without
pyplot, which keeps global state: they need no display and may be drawn in any thread.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
WIDTH, HEIGHT = 800, 260  # pixels of a line chart
# The palette of Okabe and Ito, which color-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# DejaVu Sans comes with matplotlib and has no Chinese, Japanese or Korean letters; the first installed font that has
# them is used.
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Micro Hei")

FIELD = 900  # pixels of the side of a confusion matrix, unless its cells would be larger than LARGEST_CELL
LARGEST_CELL, COUNTED_CELL, NAMED_CELL = 60, 28, 14  # pixels of a cell with count and share, with count, with a name
LONGEST_NAME = 24  # letters

# matplotlib warns of an unwritable cache folder and of fonts that are not installed, neither of which matters here.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

Lines = Mapping[str, Sequence[tuple[float, float]]]
"""The points (x, y) of each line by its name; a line is interrupted where y is NaN."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of `width` x `height` pixels."""
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, layout="constrained")


def line_charts(charts: Mapping[str, Lines], x_title: str, first: int, last: int) -> Figure:
    """Draw `charts`, lines by chart title, one below the other over `first` to `last`.

    A line of the same name has the same color in all charts.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(WIDTH, HEIGHT * len(charts))
    names = list(dict.fromkeys(name for lines in charts.values() for name in lines))
    for axes, (title, lines) in zip(figure.subplots(len(charts), squeeze=False)[:, 0], charts.items()):
        for name, points in lines.items():
            axes.plot(*zip(*points), marker=".", label=name, color=COLORS[names.index(name) % len(COLORS)])
        axes.set_xlim(first, max(last, first + 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(x_title)
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def confusion_chart(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw `confusion`, int [C, C], a row per true class, each cell shaded by its share of the row.

    Cells have names, counts and shares as far as there is room: up to 64, 32 and 15 classes.
    """
    from matplotlib.font_manager import FontProperties

    classes = len(confusion)
    cell = min(LARGEST_CELL, FIELD / classes)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    figure = new_figure(cell * classes + 300, cell * classes + 220)
    axes = figure.subplots()
    shades = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(shades, ax=axes, label="share of the true class", fraction=0.04)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if cell >= NAMED_CELL:
        font = FontProperties(family=FONTS, size=8)
        names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in class_names]
        # without parse_math, a name with two dollar signs would be a formula
        axes.set_xticks(range(classes), names, rotation=90, font=font, parse_math=False)
        axes.set_yticks(range(classes), names, font=font, parse_math=False)
    if cell >= COUNTED_CELL:
        for row, column in np.argwhere(confusion):
            text = f"{confusion[row, column]}"
            if cell == LARGEST_CELL:
                text += f"\n{share[row, column]:.0%}"
            color = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    return figure
