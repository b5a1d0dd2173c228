"""Inputs of the recipe's golden tests: sizes, options, weights and batches from seeded NumPy.

Needs neither MindSpore nor PyTorch, so the files with golden values hold results only.
"""

from __future__ import annotations

import zlib

import numpy as np

# A BEiT small enough for 50 steps in a second. Keys as of src.vit.VisionTransformer.
SIZES = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
BATCH_SIZE = 8
EPOCHS, STEPS_PER_EPOCH, WARMUP_EPOCHS = 5, 10, 1
BASE_LR, MIN_LR, WARMUP_LR = 4e-3, 1e-5, 1e-6
LAYER_DECAY, WEIGHT_DECAY = 0.65, 0.05
BETA, EPS = (0.9, 0.999), 1e-8
CLIP_GRAD_NORM = 1.0  # between the norms of the first and the last steps: some are clipped, some are not
EMA_DECAY = 0.95

# The optimizers alone: shapes, and for each its learning-rate scale and weight decay.
OPTIMIZER_SHAPES = {"a": (3, 4), "b": (5,), "c": (2, 3, 2)}
OPTIMIZER_GROUPS = {"a": (1.0, 0.1), "b": (0.25, 0.0), "c": (0.5, 0.1)}
OPTIMIZER_LRS = np.linspace(0.1, 0.01, 12)
OPTIMIZER_EPS = 1e-3  # large enough to show where it is added
MOMENTUM = 0.9

# The loss scale: one gradient per step, some of which overflow.
SCALER_STEPS, SCALER_INIT, SCALER_INTERVAL = 24, 1024.0, 4
SCALER_OVERFLOWS = (0, 7, 8, 15)
SCALER_LR = 0.1


def model_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight with a gradient worth comparing: no parameter starts at zero or where BEiT would start it."""
    rng = np.random.default_rng([7, zlib.crc32(name.encode())])
    value = rng.standard_normal(shape)
    if name.endswith(("norm1.weight", "norm2.weight", "fc_norm.weight", "gamma_1", "gamma_2")):
        return (1 + 0.2 * value).astype(np.float32)
    return (0.2 * value).astype(np.float32)


def model_batches() -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [50, 8, 3, 32, 32] and soft targets float32 [50, 8, 10]."""
    rng = np.random.default_rng(11)
    steps = EPOCHS * STEPS_PER_EPOCH
    images = rng.standard_normal((steps, BATCH_SIZE, 3, SIZES["image_size"], SIZES["image_size"]))
    targets = rng.dirichlet(np.full(SIZES["num_classes"], 0.3), (steps, BATCH_SIZE))
    return images.astype(np.float32), targets.astype(np.float32)


def optimizer_values() -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """First values and a dictionary of gradients per step, spanning five orders of magnitude."""
    rng = np.random.default_rng(13)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in OPTIMIZER_SHAPES.items()}
    gradients = [
        {
            name: (rng.standard_normal(shape) * 10.0 ** rng.uniform(-4, 1, shape)).astype(np.float32)
            for name, shape in OPTIMIZER_SHAPES.items()
        }
        for _ in OPTIMIZER_LRS
    ]
    return values, gradients


def scaler_gradients() -> np.ndarray:
    """Float32 [steps, 3]; infinite or NaN in the steps that overflow."""
    gradients = np.random.default_rng(17).standard_normal((SCALER_STEPS, 3)).astype(np.float32)
    for number, step in enumerate(SCALER_OVERFLOWS):
        gradients[step, number % 3] = np.inf if number % 2 else np.nan
    return gradients
