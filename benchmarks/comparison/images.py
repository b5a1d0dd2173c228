"""Photos for timing the pipelines: JPEG files of 500 x 375 pixels, the most frequent size in ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

WIDTH, HEIGHT = 500, 375
QUALITY = 90  # gives files of about 90 kB; ImageNet's mean is 110 kB
CLASSES = 8


def make_images(folder: Path, count: int) -> None:
    """Create `count` files in `CLASSES` folders: random crops, flips and brightness of scikit-learn's two photos.

    Existing files are kept.
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
