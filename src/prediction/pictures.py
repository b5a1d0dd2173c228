"""The pictures of a prediction: a sheet of thumbnails, and the attention over one image."""

from collections.abc import Callable, Iterator
from itertools import compress, count

import numpy as np
from PIL import Image

from src.data.sampling import spread
from src.data.transforms import eval_transform
from src.model.model_info import ModelInfo
from src.pictures.tiles import COLUMNS, ROWS, file_tile, tile_sheet
from src.prediction.journal import Record

SMALLEST_SIDE = 384  # pixels of the attention picture
# Colors from the least to the most attention: dark blue, purple, orange, pale yellow.
HEAT = np.array([(10, 10, 60), (120, 30, 120), (240, 110, 40), (255, 245, 180)], np.float32)
HEAT_SHARE = 0.6  # weight of the colors in the mixture with the image


def contact_sheet(records: Callable[[], Iterator[Record]], class_names: tuple[str, ...]) -> Image.Image:
    """Draw thumbnails of up to 48 readable images, evenly spread over the run and in its order.

    Below each are the most probable class, by its name if there are `class_names`, and the probability. An image that
    was deleted since is left out. `records` starts from the first record at each call.
    """
    readable = sum("class" in record for record in records())
    chosen = set(spread(readable, min(readable, COLUMNS * ROWS)).tolist()) if readable else set()
    tiles = []
    for record in compress((r for r in records() if "class" in r), (number in chosen for number in count())):
        number = record["class"]
        label = class_names[number] if class_names else f"class {number}"
        tiles.append(file_tile(record["image"], (label, f"{record['probability']:.1%}")))
    return tile_sheet([tile for tile in tiles if tile is not None], COLUMNS, lines=2)


def attention_picture(image: Image.Image, attention: np.ndarray, info: ModelInfo) -> Image.Image:
    """Draw the part of `image` (mode RGB) that the network sees, and beside it the same under its attention.

    `attention` is float32 [patches, patches] (see `Predictor.attention`); the colors range from its minimum to its
    maximum.
    """
    picture = eval_transform(info).resize_and_crop(image, enlarged=-(-SMALLEST_SIDE // info.model.image_size))
    low, high = float(attention.min()), float(attention.max())
    levels = (attention - low) / (high - low) if high > low else np.zeros_like(attention)
    smooth = Image.fromarray(levels.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    places = np.linspace(0.0, 1.0, len(HEAT))
    heat = np.stack([np.interp(np.asarray(smooth), places, channel) for channel in HEAT.T], axis=-1)
    mixed = (1 - HEAT_SHARE) * np.asarray(picture, np.float32) + HEAT_SHARE * heat
    return Image.fromarray(np.concatenate([np.asarray(picture), mixed.round().astype(np.uint8)], axis=1))
