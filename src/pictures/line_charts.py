"""Charts of lines over a common horizontal axis, one below the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from PIL import Image, ImageDraw

from src.pictures.text import INK, font_for, write_line

WIDTH, HEIGHT = 800, 260  # of a chart, in pixels
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 36, 40  # margins around the field that the lines lie in
TICKS = 5  # about so many on an axis
SMOOTH = 3  # lines are drawn so many times larger and scaled down, since Pillow's are jagged
NAME_GAP = 20  # between the names of two lines
STROKE, DOT = 2, 3  # pixels: a line's width, a point's radius
BACKGROUND, GRID = (255, 255, 255), (225, 225, 225)
# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))

Point = tuple[float, float]


class Line(NamedTuple):
    """Points (x, y) from left to right, in a color of `COLORS`; one that is not finite interrupts the line."""

    name: str
    points: Sequence[Point]
    color: int


class Chart(NamedTuple):
    """What one chart shows; its axis of y is made for the values there are."""

    title: str
    lines: Sequence[Line]


class Axis(NamedTuple):
    """An axis from `low` to `high` with marks at `ticks`, all multiples of `step`."""

    low: float
    high: float
    ticks: Sequence[float]
    step: float


def line_charts(charts: Sequence[Chart], x_title: str, first: float, last: float) -> Image.Image:
    """The charts one below the other, all from `first` to `last` along the axis of x."""
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(charts)), BACKGROUND)
    for number, chart in enumerate(charts):
        picture.paste(_draw(chart, x_title, first, last), (0, number * HEIGHT))
    return picture


def make_axis(values: Sequence[float]) -> Axis:
    """An axis around the finite ones of `values`, its ends at marks of 1, 2 or 5 times a power of ten."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low == high:  # one value: make room above and below it
        room = abs(low) / 2 or 1.0
        low, high = low - room, high + room
    step = _round_step((high - low) / TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, [number * step for number in range(first, last + 1)], step)


def _round_step(step: float) -> float:
    """The least of 1, 2, 5 times a power of ten that is no less than `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _draw(chart: Chart, x_title: str, first: float, last: float) -> Image.Image:
    y_axis = make_axis([y for line in chart.lines for _, y in line.points])
    x_axis = make_axis([first, last])
    ticks = [tick for tick in x_axis.ticks if first <= tick <= last and tick == round(tick)] or [first]
    x_axis = Axis(first, last if last > first else first + 1, ticks, x_axis.step)
    picture = Image.new("RGB", (WIDTH * SMOOTH, HEIGHT * SMOOTH), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for tick in y_axis.ticks:
        y = _place((first, tick), x_axis, y_axis)[1]
        draw.line([_large(LEFT, y), _large(WIDTH - RIGHT, y)], GRID, SMOOTH)
    for line in chart.lines:
        _draw_line(draw, [_place(point, x_axis, y_axis) for point in line.points], COLORS[line.color])
    picture = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    draw = ImageDraw.Draw(picture)
    for tick in y_axis.ticks:
        y = _place((first, tick), x_axis, y_axis)[1]
        write_line(draw, (LEFT - 8, y), _number(tick, y_axis.step), LEFT - 10, anchor="rm")
    for tick in x_axis.ticks:
        x = _place((tick, y_axis.low), x_axis, y_axis)[0]
        write_line(draw, (x, HEIGHT - BOTTOM + 6), f"{tick:g}", LEFT, anchor="ma")
    write_line(draw, (WIDTH - RIGHT, HEIGHT - 4), x_title, WIDTH, anchor="rd")
    write_line(draw, (8, 6), chart.title, WIDTH // 2)
    right = float(WIDTH - RIGHT)
    for line in reversed(chart.lines):
        write_line(draw, (right, 6), line.name, WIDTH // 4, color=COLORS[line.color], anchor="ra")
        right -= draw.textlength(line.name, font_for(line.name)) + NAME_GAP
    draw.line([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], INK)
    return picture


def _draw_line(draw: ImageDraw.ImageDraw, places: Sequence[Point], color: tuple[int, int, int]) -> None:
    """Join neighboring points; a point is a dot too, so that a lonely one is seen."""
    for start, end in pairwise(places):
        if math.isfinite(start[1]) and math.isfinite(end[1]):
            draw.line([_large(*start), _large(*end)], color, STROKE * SMOOTH)
    for place in places:
        if math.isfinite(place[1]):
            draw.circle(_large(*place), DOT * SMOOTH if len(places) < WIDTH // 8 else STROKE * SMOOTH / 2, color)


def _place(point: Point, x_axis: Axis, y_axis: Axis) -> Point:
    """Where in the chart, in pixels, a point lies; y is NaN where the point has none."""
    x = LEFT + (WIDTH - LEFT - RIGHT) * (point[0] - x_axis.low) / (x_axis.high - x_axis.low)
    if not math.isfinite(point[1]):
        return x, math.nan
    return x, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (point[1] - y_axis.low) / (y_axis.high - y_axis.low)


def _large(x: float, y: float) -> Point:
    return x * SMOOTH, y * SMOOTH


def _number(value: float, step: float) -> str:
    """A mark's value with as many digits as tell it from the next."""
    if abs(value) < step / 2:
        return "0"
    if step < 1e-3 or abs(value) >= 1e5:
        digits = max(0, math.floor(math.log10(abs(value))) - math.floor(math.log10(step) + 1e-9))
        return f"{value:.{digits}e}"
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
