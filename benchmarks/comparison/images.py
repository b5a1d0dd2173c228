"""Photographs to time the pipelines with: JPEG files of 500 x 375 pixels, the size of most of ImageNet's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT = 500, 375
QUALITY = 90  # the files become about 90 kB, ImageNet's are of 110 on average
CLASSES = 8


def make_images(folder: Path, count: int) -> None:
    """`count` files in `CLASSES` folders: different cuts, brightness and mirror images of scikit-learn's two photos.

    Files that are there already stay.
    """
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]  # 640 x 427
    for number in range(count):
        path = folder / f"class_{number % CLASSES}" / f"{number:05d}.jpg"
        photo = photos[number % len(photos)]
        left, top = rng.integers(0, photo.width - WIDTH + 1), rng.integers(0, photo.height - HEIGHT + 1)
        mirrored, brightness = rng.random() < 0.5, rng.uniform(0.6, 1.4)
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photo.crop((left, top, left + WIDTH, top + HEIGHT))
        if mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ImageEnhance.Brightness(image).enhance(brightness).save(path, quality=QUALITY)
