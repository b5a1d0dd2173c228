"""Ratios as horizontal bars, the reference's 1 and each target marked: drawn in the manner of the line charts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from src.pictures.line_charts import BACKGROUND, COLORS, GRID, Axis, make_axis
from src.pictures.text import INK, write_line

WIDTH, ROW, TOP, BOTTOM = 800, 34, 40, 34  # pixels
LEFT, RIGHT = 200, 90
BAR = 18  # a bar's height


class Bar(NamedTuple):
    """A ratio to the reference with its quartiles; `target` is the least (or most) that it should be."""

    name: str
    value: float
    low: float
    high: float
    target: float | None


def bar_chart(title: str, bars: Sequence[Bar]) -> Image.Image:
    """One bar under the other, with a whisker between the quartiles and a mark at the target."""
    height = TOP + ROW * len(bars) + BOTTOM
    picture = Image.new("RGB", (WIDTH, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    axis = make_axis([0.0, 1.0, *(bar.high for bar in bars), *(bar.target or 0.0 for bar in bars)])
    for tick in axis.ticks:
        draw.line([(place(tick, axis), TOP), (place(tick, axis), height - BOTTOM)], GRID)
        write_line(draw, (place(tick, axis), height - BOTTOM + 6), f"{tick:g}", LEFT, anchor="ma")
    for number, bar in enumerate(bars):
        _draw(draw, bar, TOP + ROW * number + ROW // 2, axis)
    draw.line([(place(1.0, axis), TOP), (place(1.0, axis), height - BOTTOM)], INK, 2)
    write_line(draw, (8, 8), title, WIDTH - 16)
    return picture


def place(value: float, axis: Axis) -> float:
    """Where along the picture, in pixels, a ratio lies."""
    return LEFT + (WIDTH - LEFT - RIGHT) * (value - axis.low) / (axis.high - axis.low)


def _draw(draw: ImageDraw.ImageDraw, bar: Bar, middle: float, axis: Axis) -> None:
    upper, lower = middle - BAR // 2, middle + BAR // 2
    draw.rectangle([place(0.0, axis), upper, place(bar.value, axis), lower], COLORS[0])
    draw.line([(place(bar.low, axis), middle), (place(bar.high, axis), middle)], INK, 2)
    if bar.target is not None:
        x = place(bar.target, axis)
        draw.line([(x, upper - 4), (x, lower + 4)], COLORS[1], 3)
    write_line(draw, (LEFT - 8, middle), bar.name, LEFT - 12, anchor="rm")
    write_line(draw, (WIDTH - 8, middle), f"{bar.value:.2f}", RIGHT, anchor="rm")
