"""Sizes of the published variants, cut in depth alone, and the image that each is shown. Needs numpy only."""

from __future__ import annotations

import zlib

import numpy as np

# The keyword arguments of src.vit.VisionTransformer that the paper's variants differ in; the depth is cut.
_BASE = {"patch_size": 16, "embed_dim": 768, "num_heads": 12, "num_classes": 1000}
_LARGE = {"patch_size": 16, "embed_dim": 1024, "num_heads": 16, "num_classes": 1000}
VARIANT_CASES: dict[str, dict[str, int]] = {
    "base_224": {**_BASE, "image_size": 224, "depth": 2},
    "base_384": {**_BASE, "image_size": 384, "depth": 1},
    "large_224": {**_LARGE, "image_size": 224, "depth": 2},
    "large_384": {**_LARGE, "image_size": 384, "depth": 1},
    "v2_base_224": {**_BASE, "image_size": 224, "depth": 2},
}


def image(case: str) -> np.ndarray:
    """One image, float32 [1, 3, S, S]."""
    size = VARIANT_CASES[case]["image_size"]
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    return rng.standard_normal((1, 3, size, size)).astype(np.float32)
