"""The images that both the golden script and the tests make, and how their pixels are compared."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

# So many draws stand behind every golden histogram.
DRAWS = 20_000

FILL_MEAN = (0.485, 0.456, 0.406)
FILL_STD = (0.229, 0.224, 0.225)


def digest(pixels: np.ndarray) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the shape and the bytes."""
    pixels = np.ascontiguousarray(pixels)
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def example_image(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colors with noise and hard edges, so that every operation has something to change."""
    noise = np.random.RandomState(seed).randint(-20, 21, (height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([30 + 190 * x // width, 220 - 180 * y // height, 60 + (x * 7 + y * 5) % 150], axis=2)
    smooth[(x // 7 + y // 5) % 4 == 0] //= 2
    return Image.fromarray(np.clip(smooth + noise, 10, 240).astype(np.uint8))


class ScriptedGenerator:
    """Stands for a NumPy generator, giving the numbers that the golden run of that number used up."""

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
    """Kolmogorov and Smirnov's distance of two samples, each given as a histogram over the same bins."""
    return float(np.abs(np.cumsum(counts) / counts.sum() - np.cumsum(other) / other.sum()).max())
