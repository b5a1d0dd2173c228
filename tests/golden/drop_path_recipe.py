"""The network whose branches are dropped in every combination, and what it is shown. Needs numpy only."""

from __future__ import annotations

import itertools

import numpy as np

SIZES = {"image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2, "num_classes": 4}
DROP_PATH = 0.5  # rates 0, 0.25, 0.5 in its blocks

# For each of the branches that can be dropped, in the order of the network (attention and MLP of block 1, then of
# block 2), whether it is kept.
COMBINATIONS = tuple(itertools.product((0.0, 1.0), repeat=4))

# depth and drop_path of the paper's fine-tuning runs, of a network without drop path, and of one with an even number
RATES = ((12, 0.1), (24, 0.2), (3, 0.0), (4, 0.3))


def image() -> np.ndarray:
    """One image, float32 [1, 3, 16, 16]."""
    return np.random.default_rng(5).standard_normal((1, 3, 16, 16)).astype(np.float32)
