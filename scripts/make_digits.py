"""Writes scikit-learn's bundled digits (1,797 scans of 8 x 8 pixels) as folders of PNG files, 80 % train, 20 % val."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

VAL_SHARE = 0.2
SPLIT_SEED = 0
BRIGHTEST = 16  # the scans hold 0..16


def write_digits(folder: Path) -> None:
    """Write `folder`/{train,val}/DIGIT/NUMBER.png, stratified by digit; the folder appears whole or not at all."""
    digits = load_digits()
    numbers = np.arange(len(digits.target))
    train, val = train_test_split(numbers, test_size=VAL_SHARE, stratify=digits.target, random_state=SPLIT_SEED)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for split, chosen in (("train", train), ("val", val)):
        for number in chosen:
            path = unfinished / split / str(digits.target[number]) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            scan = digits.images[number] * (255 / BRIGHTEST)
            Image.fromarray(scan.round().astype(np.uint8)).save(path)
    unfinished.rename(folder)


def write_few_labels(folder: Path, digits: Path, labels: int) -> None:
    """Write `folder`/{train,val} with the first `labels` training images of each digit in `digits`, and all of val.

    The training images are repeated under other names up to the number in `digits`, so that an epoch has as many steps
    as one over all of them. The folder appears whole or not at all.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(digits / "val", unfinished / "val")
    for source in sorted((digits / "train").iterdir()):
        paths = sorted(source.iterdir())
        place = unfinished / "train" / source.name
        place.mkdir(parents=True)
        for number in range(len(paths)):
            path = paths[number % labels]
            shutil.copy(path, place / f"{path.stem}_{number // labels:03d}.png")
    unfinished.rename(folder)


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]))
