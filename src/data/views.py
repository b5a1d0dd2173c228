"""The views of an image for masked image modeling: one crop, resized for the network and again for the tokenizer.

Pixels equal those of the authors' `DataAugmentationForBEiT` (datasets.py and transforms.py of unilm's beit and beit2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from src.data.reduction import Box, Decoded, Size, largest_reduction, whole
from src.data.transforms import FILTERS, draw_jitter, jitter_colors, normalize, random_crop_box, resize


class Draw(NamedTuple):
    """The random numbers of an image: order and factors of the color jitter, flip, crop, and the filter of the view."""

    jitter: tuple[list[int], tuple[float, float, float]] | None
    flipped: bool
    box: Box  # of the flipped image
    resample: Image.Resampling


@dataclass(frozen=True)
class ViewTransform:
    """Color jitter, horizontal flip, and one random crop that is resized once or twice.

    Attributes:
        image_size: side in pixels of the view that the network sees.
        token_size: side of the view that the tokenizer sees; 0 for none.
        interpolation, second_interpolation: filters of the two views, keys of `FILTERS`; `random` draws one.
        min_crop: smallest area of the crop, as a share of the image.
        color_jitter: strength of brightness, contrast and saturation; 0 for none.
        hflip: probability of the flip.
        mean, std: of RGB values in 0..1, for the first view.
    """

    image_size: int
    token_size: int
    interpolation: str
    second_interpolation: str
    min_crop: float
    color_jitter: float
    hflip: float
    mean: Sequence[float]
    std: Sequence[float]

    def draw(self, size: Size, rng: np.random.Generator) -> Draw:
        """Draw the random numbers of an image of `size`."""
        jitter = draw_jitter(rng, self.color_jitter) if self.color_jitter > 0 else None
        flipped = bool(rng.random() < self.hflip)
        box = random_crop_box(rng, *size, self.min_crop)
        filters = FILTERS[self.interpolation]
        resample = filters[int(rng.random() * len(filters))] if len(filters) > 1 else filters[0]
        return Draw(jitter, flipped, box, resample)

    def reduction(self, size: Size, rng: np.random.Generator) -> int:
        """Return the largest reduction of an image of `size` after which the crop is not smaller than either view.

        `rng` is in the state that the call of the transform receives, which draws the same crop.
        """
        left, upper, right, lower = self.draw(size, rng).box
        side = max(self.image_size, self.token_size)
        return largest_reduction((right - left, lower - upper), (side, side))

    def __call__(
        self, source: Image.Image | Decoded, rng: np.random.Generator, image: np.ndarray, token_image: np.ndarray | None
    ) -> None:
        """Write the views of an image into `image`, float32 [3, S, S], and `token_image`, uint8 [3, T, T]."""
        decoded = whole(source)
        self.apply(decoded, self.draw(decoded.size, rng), image, token_image)

    def apply(self, decoded: Decoded, draw: Draw, image: np.ndarray, token_image: np.ndarray | None) -> None:
        """Write the views of an image for the random numbers `draw`."""
        if draw.jitter is not None:
            # the whole image, because the contrast refers to its mean
            decoded = Decoded(jitter_colors(decoded.image, *draw.jitter), decoded.size, decoded.reduction)
        left, upper, right, lower = draw.box
        if draw.flipped:  # cropping before the flip gives the same pixels
            left, right = decoded.size[0] - right, decoded.size[0] - left
        cropped, edges = decoded.crop((left, upper, right, lower))
        if draw.flipped:
            cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            edges = (cropped.width - edges[2], edges[1], cropped.width - edges[0], edges[3])
        normalize(resize(cropped, (self.image_size,) * 2, draw.resample, edges=edges), self.mean, self.std, image)
        if token_image is not None:
            second = FILTERS[self.second_interpolation][0]
            view = resize(cropped, (self.token_size,) * 2, second, edges=edges)
            token_image[:] = np.asarray(view).transpose(2, 0, 1)
