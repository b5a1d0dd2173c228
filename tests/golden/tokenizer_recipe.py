"""What the golden values of tokenizers were computed from. Both sides import it; needs numpy only."""

from __future__ import annotations

import math
import zlib

import numpy as np

# Small ones are part of the tests; full ones have the published sizes.
DALLE = {"small": {"n_hid": 64, "n_blk_per_group": 1, "vocab_size": 512}, "full": {}}
VQKD = {
    "small": {"img_size": 32, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2, "codes": (64, 8)},
    "full": {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "codes": (8192, 32)},
}
DVAE = {"image_size": 16, "num_tokens": 24, "codebook_dim": 12, "num_layers": 2, "hidden_dim": 8}
# Options of the loss, by the name of the case.
DVAE_CASES = {
    "soft": {"temperature": 0.9, "kl_div_loss_weight": 0.0},
    "kl": {"temperature": 0.5, "kl_div_loss_weight": 1e-4},
    "straight_through": {"temperature": 1.0, "kl_div_loss_weight": 1e-4, "straight_through": True},
    "smooth_l1": {"temperature": 0.9, "kl_div_loss_weight": 0.0, "smooth_l1_loss": True},
}
IMAGES = {"small": 6, "full": 64}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 weights that keep the size of activations, with a bias that is not 0; the same for a name and a shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) > 1:
        return value / np.float32(math.sqrt(math.prod(shape[1:])))
    return (1 + value / 10 if "norm" in name and name.endswith("weight") else value / 10).astype(np.float32)


def pixels(side: int, count: int) -> np.ndarray:
    """Uint8 [count, 3, side, side]: smooth colors with noise, another image for each number."""
    rng = np.random.default_rng(side)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = rng.uniform(-9, 9, (count, 3, 4, 1, 1))
    smooth = 128 + 80 * np.sin(waves[:, :, 0] * x + waves[:, :, 1] * y + waves[:, :, 2])
    return np.clip(smooth + rng.normal(0, 15, (count, 3, side, side)), 0, 255).astype(np.uint8)


def gumbel_noise(shape: tuple[int, ...]) -> np.ndarray:
    """Gumbel noise, float32 of `shape`."""
    return np.random.default_rng(7).gumbel(size=shape).astype(np.float32)
