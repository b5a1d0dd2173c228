"""Images that the golden scripts and the tests share, and the hash that compares their pixels."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

# Draws in every golden histogram.
DRAWS = 20_000

# (source size, size, filter): squares, photos, crops of training, and ratios of width to height from 10:1 to 1:10
RESIZE_CASES = [
    (source, size, name)
    for source, size in (
        ((500, 375), (330, 248)),
        ((375, 500), (248, 330)),
        ((240, 300), (224, 224)),
        ((300, 400), (224, 224)),
        ((400, 300), (224, 224)),
        ((600, 1500), (248, 620)),
        ((1500, 600), (620, 248)),
        ((200, 600), (71, 213)),
        ((600, 200), (213, 71)),
        ((100, 1000), (71, 710)),
        ((1000, 100), (710, 71)),
        ((40, 400), (71, 710)),
        ((60, 61), (70, 20)),
    )
    for name in ("nearest", "bilinear", "bicubic", "lanczos")
]

FILL_MEAN = (0.485, 0.456, 0.406)
FILL_STD = (0.229, 0.224, 0.225)


def digest(pixels: np.ndarray) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the shape and the bytes."""
    pixels = np.ascontiguousarray(pixels)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def example_image(width: int, height: int, seed: int) -> Image.Image:
    """Return smooth colors with noise and hard edges, which every operation changes."""
    noise = np.random.RandomState(seed).randint(-20, 21, (height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([30 + 190 * x // width, 220 - 180 * y // height, 60 + (x * 7 + y * 5) % 150], axis=2)
    smooth[(x // 7 + y // 5) % 4 == 0] //= 2
    return Image.fromarray(np.clip(smooth + noise, 10, 240).astype(np.uint8))


class ScriptedGenerator:
    """A stand-in for a NumPy generator that returns the numbers of one golden run."""

    def __init__(self, golden: dict[str, np.ndarray], run: int) -> None:
        self._uniforms = iter(golden["scripted_uniforms"][run].tolist())
        self._normals = iter(golden["scripted_normals"][run].tolist())
        self._dirichlet = golden["scripted_dirichlet"][run]
        self._beta = float(golden["scripted_beta"][run])

    def random(self) -> float:
        return next(self._uniforms)

    def standard_normal(self) -> float:
        return next(self._normals)

    def dirichlet(self, alphas: list[float]) -> np.ndarray:
        return self._dirichlet[: len(alphas)] / self._dirichlet[: len(alphas)].sum()

    def beta(self, a: float, b: float) -> float:
        return self._beta


def ks_distance(counts: np.ndarray, other: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, given as histograms over the same bins."""
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(other) / other.sum()).max())
