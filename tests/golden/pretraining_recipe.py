"""What the golden values of the pre-training recipe were computed from. Both sides import it; needs numpy only."""

from __future__ import annotations

import zlib

import numpy as np

_SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "lm_head_outputs": 24}
# The options of the authors' networks: `lm_head_outputs` is their vocab_size. BEiT v2 has `head_layers`.
NETWORKS: dict[str, dict[str, int]] = {"v1": _SIZES, "v2": {**_SIZES, "early_layers": 1, "head_layers": 1}}
BATCH, PATCHES, POSITIONS = 8, 16, 7

# The 50 steps: the authors' recipe with the epochs and the learning rate of a small network.
EPOCHS, STEPS_PER_EPOCH, WARMUP_STEPS = 5, 10, 8
BASE_LR, MIN_LR = 4e-3, 1e-5
WEIGHT_DECAY, WEIGHT_DECAY_END = 0.05, 0.2
BETA, EPS = {"v1": (0.9, 0.999), "v2": (0.9, 0.98)}, 1e-8
CLIP_GRAD_NORM = 3.0

# Arguments of the schedules: epochs, steps of an epoch, warm-up in epochs and in steps (0: in epochs), and the end of
# the weight decay. The learning rate goes from 1.5e-3 to 1e-5, the weight decay begins at 0.05.
SCHEDULES = ((150, 83, 5, 10_000, 0.05), (40, 11, 10, 0, 0.05), (30, 7, 5, 13, 0.4), (3, 5, 0, 0, 0.0))


def batches(version: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [50, 8, 3, 32, 32], masks bool [50, 8, 16] and tokens int32 [50, 8, 16].

    At most `POSITIONS` patches are masked, in v2 exactly as many. A token says which of 24 values the brightness of its
    patch is nearest to, so that there is something to learn: neighbors have similar brightness.
    """
    rng = np.random.default_rng(zlib.crc32(version.encode()))
    steps = EPOCHS * STEPS_PER_EPOCH
    corners = rng.standard_normal((steps, BATCH, 1, 2, 2))
    smooth = corners.repeat(16, 3).repeat(16, 4)
    images = (smooth + 0.5 * rng.standard_normal((steps, BATCH, 3, 32, 32))).astype(np.float32)
    brightness = images.reshape(steps, BATCH, 3, 4, 8, 4, 8).mean((2, 4, 6)).reshape(steps, BATCH, PATCHES)
    tokens = np.clip(np.round(4 * brightness + 12), 0, 23).astype(np.int32)
    masks = np.zeros((steps, BATCH, PATCHES), bool)
    for mask in masks.reshape(-1, PATCHES):
        count = POSITIONS if version == "v2" else rng.integers(1, POSITIONS + 1)
        mask[rng.choice(PATCHES, count, replace=False)] = True
    return images, masks, tokens


def pixel_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [3, 3, 32, 32], predictions float32 [3, 16, 192] and masks bool [3, 16], for patches of 8 pixels.

    One masked patch has one color, another almost: there the constant of the variance matters.
    """
    rng = np.random.default_rng(5)
    images = rng.uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    images[0, :, :8, :8] = 0.25
    images[1, :, 8:16, :8] = 0.5 + 1e-3 * rng.standard_normal((3, 8, 8))
    masks = np.zeros((3, PATCHES), bool)
    masks[0, [0, 3, 9]] = masks[1, [4, 5]] = masks[2, [1, 2, 8, 9, 10, 11, 15]] = True
    return images, rng.standard_normal((3, PATCHES, 192)).astype(np.float32), masks
