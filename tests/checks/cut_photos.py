"""Cuts training and validation photos out of scikit-image's samples: `cut_photos.py FOLDER`.

For following the README without photos of your own. The samples come with `pip install scikit-image`. Training and
validation photos come from different parts of each sample.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

SAMPLES = {
    "bricks": "brick.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "print": "page.png",
    "tissue": "ihc.png",
}
TRAIN_SHARE = 0.7  # of a sample's width
COUNTS = {"train": 60, "val": 15}
SIDES = (72, 128)  # pixels of the smallest and the largest photo


def main() -> None:
    folder = Path(sys.argv[1])
    rng = np.random.default_rng(0)
    for name, file in SAMPLES.items():
        sample = Image.open(Path(skimage.__file__).parent / "data" / file).convert("RGB")
        border = round(sample.width * TRAIN_SHARE)
        parts = {"train": (0, border), "val": (border, sample.width)}
        for split, count in COUNTS.items():
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                cut(sample, parts[split], rng).save(place / f"{name}{number:03d}.jpg", quality=92)


def cut(sample: Image.Image, part: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """Return a photo of random size from the columns `part` of `sample`."""
    first, end = part
    width, height = (int(rng.integers(SIDES[0], min(SIDES[1], most) + 1)) for most in (end - first, sample.height))
    left, top = int(rng.integers(first, end - width + 1)), int(rng.integers(0, sample.height - height + 1))
    return sample.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    main()
