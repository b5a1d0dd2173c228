"""The attention of a BEiT drawn over the picture that it looks at."""

from __future__ import annotations

import numpy as np
from PIL import Image

from src.data.transforms import eval_transform
from src.model.model_info import ModelInfo
from src.prediction.preparation import seen_part

SMALLEST_SIDE = 384  # of the drawn picture, in pixels
# From the least to the most attention: dark blue, purple, orange, pale yellow.
HEAT = np.array([(10, 10, 60), (120, 30, 120), (240, 110, 40), (255, 245, 180)], np.float32)
HEAT_SHARE = 0.6  # of the heat's color in the mixture with the picture


def attention_picture(image: Image.Image, attention: np.ndarray, info: ModelInfo) -> Image.Image:
    """What the network sees of `image` (mode RGB), and beside it the same with its `attention` as colors over it.

    `attention` is float32 [patches, patches] (see `Predictor.attention`); the colors span its own least and most.
    """
    transform = eval_transform(info)
    picture = seen_part(image, transform, enlarged=-(-SMALLEST_SIDE // info.model.image_size))
    low, high = float(attention.min()), float(attention.max())
    levels = (attention - low) / (high - low) if high > low else np.zeros_like(attention)
    smooth = Image.fromarray(levels.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    places = np.linspace(0.0, 1.0, len(HEAT))
    heat = np.stack([np.interp(np.asarray(smooth), places, channel) for channel in HEAT.T], axis=-1)
    mixed = (1 - HEAT_SHARE) * np.asarray(picture, np.float32) + HEAT_SHARE * heat
    both = np.concatenate([np.asarray(picture), mixed.round().astype(np.uint8)], axis=1)
    return Image.fromarray(both)
