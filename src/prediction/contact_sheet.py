"""A picture of many predictions at once: thumbnails with the predicted class and its probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress, count

from PIL import Image, ImageDraw, ImageFont

from src.data.decode import UnreadableImage, read_rgb
from src.data.sampling import spread
from src.prediction.journal import Record

COLUMNS, ROWS = 8, 6
SIDE = 160  # of a thumbnail, in pixels
CAPTION = 40  # height of the two lines below it
FONT_SIZE = 14
GAP = 8
BACKGROUND, INK = (255, 255, 255), (20, 20, 20)
# Pillow's own font has Latin letters only; these, where one is installed, have most others.
LAST_LATIN = "\u024f"
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "wqy-microhei.ttc", "DejaVuSans.ttf")

Records = Callable[[], Iterator[Record]]
"""Gives the records of a run, from the first on, each time it is called."""


def contact_sheet(records: Records, class_names: tuple[str, ...]) -> Image.Image:
    """Thumbnails of up to 48 of the readable images, evenly spread over the run and in its order.

    Below each stand the label of the most probable class, or its number where `class_names` is empty, and its
    probability. An image that cannot be read any more is left out.
    """
    chosen = [(record, thumbnail) for record in _spread_over(records) if (thumbnail := _thumbnail(record.image))]
    columns = max(min(len(chosen), COLUMNS), 1)
    rows = max(-(-len(chosen) // COLUMNS), 1)
    width, height = SIDE + GAP, SIDE + CAPTION + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for place, (record, thumbnail) in enumerate(chosen):
        left, top = GAP + place % COLUMNS * width, GAP + place // COLUMNS * height
        sheet.paste(thumbnail, (left + (SIDE - thumbnail.width) // 2, top + (SIDE - thumbnail.height) // 2))
        number, probability = record.top[0]
        _write(draw, (left, top + SIDE), class_names[number] if class_names else f"class {number}")
        _write(draw, (left, top + SIDE + CAPTION // 2), f"{probability:.1%}")
    return sheet


def _spread_over(records: Records) -> list[Record]:
    readable = sum(record.reason is None for record in records())
    wanted = set(spread(readable, min(readable, COLUMNS * ROWS)).tolist()) if readable else set()
    return list(compress((r for r in records() if r.reason is None), (number in wanted for number in count())))


def _thumbnail(path: str) -> Image.Image | None:
    try:
        image = read_rgb(path)
    except UnreadableImage:
        return None
    image.thumbnail((SIDE, SIDE))
    return image


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    """One line, cut to the width of a thumbnail."""
    font = _font(text)
    shown = text
    while draw.textlength(shown, font) > SIDE:
        shown = f"{shown.rstrip('…')[:-1]}…"
    draw.text(place, shown, INK, font)


def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if any(letter > LAST_LATIN for letter in text):
        for name in WIDE_FONTS:
            try:
                return ImageFont.truetype(name, FONT_SIZE)
            except OSError:  # it is not installed
                continue
    return ImageFont.load_default(FONT_SIZE)
