"""A confusion matrix as a picture: a row for what images are, a column for what they are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from src.pictures.text import FONT_SIZE, INK, font_for, write_line

FIELD = 960  # pixels that the cells share, as far as a cell is at least one and at most LARGEST_CELL
LARGEST_CELL = 32
NAMED_CELL, COUNTED_CELL = 16, 28  # the smallest cells beside which names, and in which numbers, can be read
LONGEST_NAME = 160  # pixels
MARGIN = 28
# From none of a row's images to all of them: white, blue, dark blue.
SHADES = np.array([(255, 255, 255), (110, 170, 220), (8, 48, 107)], np.float64)
LIGHT_INK = (255, 255, 255)


def confusion_picture(confusion: np.ndarray, class_names: Sequence[str]) -> Image.Image:
    """`confusion`, int [C, C], each cell shaded by its share of the row; names and counts where there is room."""
    classes = len(confusion)
    cell = max(1, min(LARGEST_CELL, FIELD // classes))
    names_width = _width_of_names(class_names) + 8 if cell >= NAMED_CELL else 0
    left, top = MARGIN + names_width, MARGIN + names_width
    picture = Image.new("RGB", (left + classes * cell + MARGIN, top + classes * cell + MARGIN), (255, 255, 255))
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    picture.paste(_field(share, cell), (left, top))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left - 1, top - 1, left + classes * cell, top + classes * cell), outline=INK)
    write_line(draw, (8, 6), "rows: what images are; columns: what they are taken for", picture.width)
    if names_width:
        for number, name in enumerate(class_names):
            middle = number * cell + cell / 2
            write_line(draw, (left - 6, top + middle), name, LONGEST_NAME, anchor="rm")
            upright = _upright(name)
            picture.paste(upright, (round(left + middle - upright.width / 2), top - 6 - upright.height))
    if cell >= COUNTED_CELL:
        for row, column in np.argwhere(confusion):
            color = LIGHT_INK if share[row, column] > 0.5 else INK
            place = (left + column * cell + cell / 2, top + row * cell + cell / 2)
            write_line(draw, place, str(confusion[row, column]), cell, color=color, anchor="mm")
    return picture


def _field(share: np.ndarray, cell: int) -> Image.Image:
    """The cells: shares 0..1, [C, C], as shades."""
    places = np.linspace(0.0, 1.0, len(SHADES))
    colors = np.stack([np.interp(share, places, channel) for channel in SHADES.T], axis=-1)
    pixels = colors.round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    return Image.fromarray(pixels)


def _width_of_names(names: Sequence[str]) -> int:
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    longest = max((draw.textlength(name, font_for(name)) for name in names), default=0)
    return min(LONGEST_NAME, round(longest))


def _upright(name: str) -> Image.Image:
    """A name that reads from below to above."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(1, min(LONGEST_NAME, round(draw.textlength(name, font_for(name)))))
    line = Image.new("RGB", (width, FONT_SIZE + 4), (255, 255, 255))
    write_line(ImageDraw.Draw(line), (0, 1), name, width)
    return line.transpose(Image.Transpose.ROTATE_90)
