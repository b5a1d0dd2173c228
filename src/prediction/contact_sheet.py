"""A picture of many predictions at once: thumbnails with the predicted class and its probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress, count
from pathlib import Path

from PIL import Image

from src.data.decode import UnreadableImage, read_rgb
from src.data.sampling import spread
from src.pictures.tiles import SIDE, Tile, tile_sheet
from src.prediction.journal import Record

COLUMNS, ROWS = 8, 6

Records = Callable[[], Iterator[Record]]
"""Gives the records of a run, from the first on, each time it is called."""


def contact_sheet(records: Records, class_names: tuple[str, ...]) -> Image.Image:
    """Thumbnails of up to 48 of the readable images, evenly spread over the run and in its order.

    Below each stand the label of the most probable class, or its number where `class_names` is empty, and its
    probability. An image that cannot be read any more is left out.
    """
    tiles = []
    for record in _spread_over(records):
        if (picture := thumbnail(record.image)) is not None:
            number, probability = record.top[0]
            label = class_names[number] if class_names else f"class {number}"
            tiles.append(Tile(picture, (label, f"{probability:.1%}")))
    return tile_sheet(tiles, COLUMNS, lines=2)


def _spread_over(records: Records) -> list[Record]:
    readable = sum(record.reason is None for record in records())
    wanted = set(spread(readable, min(readable, COLUMNS * ROWS)).tolist()) if readable else set()
    return list(compress((r for r in records() if r.reason is None), (number in wanted for number in count())))


def thumbnail(path: str | Path) -> Image.Image | None:
    """The image at `path`, no larger than a tile; None where it cannot be read."""
    try:
        image = read_rgb(path)
    except UnreadableImage:
        return None
    image.thumbnail((SIDE, SIDE))
    return image
