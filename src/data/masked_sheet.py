"""A sheet of pictures of masked images: what the network and the tokenizer see, and what is predicted or decoded."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from src.data.masked_images import MaskedBatch, TokenBatch
from src.pictures.tiles import Tile, as_picture, tile_sheet

COLUMNS = 8  # at most
GRAY = 0.5  # of masked patches, in 0..1
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # mean and standard deviation of values in 0..1

MeanStd = tuple[Sequence[float], Sequence[float]]


def masked_sheet(
    batch: MaskedBatch | TokenBatch,
    mean_std: MeanStd,
    names: Sequence[str],
    further: Mapping[str, np.ndarray] | None = None,
) -> Image.Image:
    """Draw the first `len(names)` images of `batch`, each in tiles side by side.

    They show the network's view above the name, the same with masked patches in gray, the tokenizer's view if there is
    one, and a picture of each of `further`, float32 [B, 3, T, T] of RGB values in 0..1 by its heading. `mean_std` are
    those of the normalization of `batch.image`.
    """
    further = further or {}
    tokenizer = ["tokenizer"] if isinstance(batch, TokenBatch) else []
    headings = ["network", "masked", *tokenizer, *further]
    tiles = []
    for row, name in enumerate(names):
        tiles += _tiles(batch, row, mean_std, name)
        tiles += [Tile(as_picture(images[row], *PLAIN), ()) for images in further.values()]
    images_a_row = max(COLUMNS // len(headings), 1)
    side = max(tile.picture.width for tile in tiles)
    return tile_sheet(tiles, images_a_row * len(headings), lines=1, side=side, headings=headings * images_a_row)


def _tiles(batch: MaskedBatch | TokenBatch, row: int, mean_std: MeanStd, name: str) -> list[Tile]:
    image, mask = batch.image[row], batch.mask[row]
    tiles = [
        Tile(as_picture(image, *mean_std), (name,)),
        Tile(
            as_picture(masked_image(image, mask, mean_std), *mean_std),
            (f"{int(mask.sum())} of {len(mask)} patches",),
        ),
    ]
    if isinstance(batch, TokenBatch):
        view = batch.token_image[row]
        lines = (f"{view.shape[1]} x {view.shape[2]} pixels",)
        tiles.append(Tile(as_picture(view / np.float32(255), *PLAIN), lines))
    return tiles


def masked_image(image: np.ndarray, mask: np.ndarray, mean_std: MeanStd) -> np.ndarray:
    """Return a normalized `image`, float32 [3, S, S], with gray patches where `mask`, float32 [N], is 1."""
    mean, std = (np.array(values, np.float32) for values in mean_std)
    gray = (GRAY - mean) / std
    return np.where(pixel_mask(mask, image.shape[-1]), gray[:, None, None], image)


def pixel_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """Return which pixels of an image with sides of `side` pixels are masked, bool [side, side]."""
    grid = math.isqrt(len(mask))
    return mask.reshape(grid, grid).repeat(side // grid, axis=0).repeat(side // grid, axis=1) == 1
