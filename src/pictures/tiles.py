"""Many small pictures on one sheet, each with lines of text below it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from src.pictures.text import write_line

SIDE = 160  # of a tile, in pixels
LINE = 20  # height of a line of text
GAP = 8
BACKGROUND = (255, 255, 255)


class Tile(NamedTuple):
    """A picture no larger than the sheet's side, and the lines below it."""

    picture: Image.Image
    lines: Sequence[str]


def tile_sheet(
    tiles: Sequence[Tile], columns: int, *, lines: int, side: int = SIDE, headings: Sequence[str] = ()
) -> Image.Image:
    """The tiles row by row, `columns` to a row, each in a square of `side` pixels above room for `lines` of text.

    `headings` stand above the columns, from the left. A sheet is never empty: without tiles it has the room of one.
    """
    rows = max(-(-len(tiles) // columns), 1)
    columns = max(min(len(tiles), columns), 1)
    head = LINE if headings else 0
    width, height = side + GAP, side + lines * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP + head), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings[:columns]):
        write_line(draw, (GAP + column * width, GAP // 2), heading, side)
    for place, tile in enumerate(tiles):
        left, top = GAP + place % columns * width, GAP + head + place // columns * height
        sheet.paste(tile.picture, (left + (side - tile.picture.width) // 2, top + (side - tile.picture.height) // 2))
        for number, line in enumerate(tile.lines):
            write_line(draw, (left, top + side + number * LINE), line, side)
    return sheet
