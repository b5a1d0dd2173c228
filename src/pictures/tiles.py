"""A sheet of many small pictures, each with lines of text below it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.data.decode import UnreadableImage, read_rgb
from src.data.packed_image import ImageFile

COLUMNS, ROWS = 8, 6  # of a sheet of files
SIDE = 160  # pixels of a tile
LINE = 20  # pixels of a line of text
GAP = 8
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)
FONT_SIZE = 14
# Pillow's own font has Latin letters only; the first installed one of these is used for others.
LAST_LATIN = "\u024f"
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "wqy-microhei.ttc", "DejaVuSans.ttf")


class Tile(NamedTuple):
    """A picture no larger than a tile, and the lines below it."""

    picture: Image.Image
    lines: Sequence[str]


def file_tile(path: ImageFile, lines: Sequence[str]) -> Tile | None:
    """Return a tile with the image at `path`, or None if it cannot be read."""
    try:
        image = read_rgb(path)
    except UnreadableImage:
        return None
    image.thumbnail((SIDE, SIDE))
    return Tile(image, lines)


def as_picture(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Return a normalized image, float32 [3, S, S], as a picture, enlarged by an integer factor to fill a tile."""
    colors = image * np.array(std, np.float32)[:, None, None] + np.array(mean, np.float32)[:, None, None]
    pixels = (colors * 255).round().clip(0, 255).astype(np.uint8)
    size = image.shape[-1] * max(1, -(-SIDE // image.shape[-1]))
    return Image.fromarray(pixels.transpose(1, 2, 0)).resize((size, size), Image.Resampling.NEAREST)


def tile_sheet(
    tiles: Sequence[Tile], columns: int, *, lines: int, side: int = SIDE, headings: Sequence[str] = ()
) -> Image.Image:
    """Draw the tiles row by row, `columns` per row, in squares of `side` pixels above `lines` lines of text.

    `headings` stand above the columns. A sheet without tiles has the size of a sheet with one.
    """
    rows = max(-(-len(tiles) // columns), 1)
    columns = max(min(len(tiles), columns), 1)
    head = LINE if headings else 0
    width, height = side + GAP, side + lines * LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP + head), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings[:columns]):
        _write(draw, (GAP + column * width, GAP // 2), heading, side)
    for place, tile in enumerate(tiles):
        left, top = GAP + place % columns * width, GAP + head + place // columns * height
        sheet.paste(tile.picture, (left + (side - tile.picture.width) // 2, top + (side - tile.picture.height) // 2))
        for number, line in enumerate(tile.lines):
            _write(draw, (left, top + side + number * LINE), line, side)
    return sheet


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, width: int) -> None:
    """Write a line with its upper left corner at `place`, cut to `width` pixels."""
    font = _font(text)
    shown = text
    while draw.textlength(shown, font) > width:
        shown = f"{shown.rstrip('…')[:-1]}…"
    draw.text(place, shown, INK, font)


def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if any(letter > LAST_LATIN for letter in text):
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, FONT_SIZE)
            except OSError:  # not installed
                continue
    return ImageFont.load_default(FONT_SIZE)
