"""What the golden values of masked image modeling were computed from. Both sides import it; needs numpy only."""

from __future__ import annotations

import zlib

import numpy as np

_SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 16, "num_heads": 2}
# The options of the authors' networks: `lm_head_outputs` is their vocab_size.
CASES: dict[str, dict[str, object]] = {
    "v1": {**_SIZES, "depth": 2, "lm_head_outputs": 24},
    "v1_abs_pos_emb": {**_SIZES, "depth": 1, "lm_head_outputs": 24, "abs_pos_emb": True, "shared_rel_pos_bias": False},
    "v1_no_layer_scale": {**_SIZES, "depth": 1, "lm_head_outputs": 24, "layer_scale_init_value": 0.0},
    "v2": {**_SIZES, "depth": 3, "lm_head_outputs": 24, "early_layers": 2, "head_layers": 2},
    "v2_late": {**_SIZES, "depth": 2, "lm_head_outputs": 24, "early_layers": 2, "head_layers": 1},
}
BATCH, PATCHES, POSITIONS = 3, 16, 7


def images(case: str) -> np.ndarray:
    """Float32 [BATCH, 3, 32, 32]."""
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    return rng.standard_normal((BATCH, 3, 32, 32)).astype(np.float32)


def masks(case: str) -> np.ndarray:
    """Bool [BATCH, PATCHES] with at most POSITIONS masked patches; v2 masks that many in each image."""
    rng = np.random.default_rng(zlib.crc32(case.encode()) + 1)
    result = np.zeros((BATCH, PATCHES), bool)
    for row, count in zip(result, (POSITIONS,) * BATCH if case.startswith("v2") else (POSITIONS, 4, 1)):
        row[rng.choice(PATCHES, count, replace=False)] = True
    return result


def tokens(case: str) -> np.ndarray:
    """Visual tokens int32 [BATCH, PATCHES]."""
    rng = np.random.default_rng(zlib.crc32(case.encode()) + 2)
    return rng.integers(0, 24, (BATCH, PATCHES)).astype(np.int32)


def positions_and_weights(mask: np.ndarray, count: int = POSITIONS) -> tuple[np.ndarray, np.ndarray]:
    """Masked positions int32 [B, count], ascending and filled with 0, and their weights, float32 of that shape."""
    positions, weights = np.zeros((len(mask), count), np.int32), np.zeros((len(mask), count), np.float32)
    for row, found, weight in zip(mask, positions, weights):
        places = np.flatnonzero(row)
        found[: len(places)], weight[: len(places)] = places, 1
    return positions, weights
