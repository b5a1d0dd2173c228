"""A tiny run of two epochs of four steps that stops after step 2 of epoch 2: its sizes, its options and its batches."""

from __future__ import annotations

import numpy as np

SIZES = {"image_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
NUM_CLASSES = 3
DROP, DROP_PATH, SEED = 0.1, 0.2, 3
ARCH = "beit_micro_patch4_32"  # in the file's name only: its own sizes would make a file of 3 MB

EPOCHS, STEPS, BATCH_SIZE = 2, 4, 4
STOP_AFTER = 6  # steps
LEARNING_RATES = np.linspace(1e-2, 1e-3, EPOCHS * STEPS)
WEIGHT_DECAY, LAYER_DECAY, EMA_DECAY, CLIP_GRAD_NORM = 0.05, 0.9, 0.5, 1.0
LOSS_SCALE = 2.0**66  # the sum of squared gradients overflows until it is halved: the first steps are skipped
OPTIONS = {"base_lr": 0.01, "beta": [0.9, 0.999], "seed": SEED, "training images": 16}


def batch(epoch: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, target and key of a step."""
    rng = np.random.default_rng([epoch, step])
    image = rng.standard_normal((BATCH_SIZE, 3, 8, 8)).astype(np.float32)
    target = rng.dirichlet(np.ones(NUM_CLASSES), BATCH_SIZE).astype(np.float32)
    return image, target, rng.integers(0, 2**31, BATCH_SIZE).astype(np.int32)
