"""What the network's golden values were computed from: sizes, options, weights and inputs, by numpy alone.

Both sides import it: `make_network.py` in the reference environment and the tests. Only outputs need storing.
"""

from __future__ import annotations

import zlib

import numpy as np

# the keyword arguments of src.vit.VisionTransformer that differ from its defaults
_SMALL = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 5}
CASES: dict[str, dict[str, object]] = {
    "base": {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 10},
    "v2": {**_SMALL, "num_heads": 4, "depth": 3},
    "image_384": {**_SMALL, "image_size": 24},
    "large": {**_SMALL, "embed_dim": 24, "layer_scale_init_value": 1e-5},
    "no_layer_scale": {**_SMALL, "layer_scale_init_value": 0.0},
    "shared_bias": {**_SMALL, "rel_pos_bias": False, "shared_rel_pos_bias": True},
    "shared_and_own_bias": {**_SMALL, "shared_rel_pos_bias": True},
    "abs_pos_emb": {**_SMALL, "rel_pos_bias": False, "abs_pos_emb": True},
    "class_token": {**_SMALL, "mean_pooling": False},
    "tanh_gelu": {**_SMALL, "approximate_gelu": True},
}
BATCH = 3


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of the parameter `name`, float32 of `shape`.

    Everything differs from its initial value, bias tables and layer scale included, and is large enough to be felt in
    the logits. Layer norms' weights and layer scale stay positive, as trained ones mostly are.
    """
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("relative_position_bias_table"):
        values *= 0.7
    elif "gamma_" in name:
        values = 0.6 + 0.2 * np.tanh(values)
    elif "norm" in name and name.endswith(".weight"):
        values = 1.0 + 0.3 * np.tanh(values)
    elif name.endswith("weight"):
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values *= 0.3
    return values.astype(np.float32)


def batch(case: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [BATCH, 3, S, S] and soft targets float32 [BATCH, classes] that sum to 1."""
    options = CASES[case]
    rng = np.random.default_rng(zlib.crc32(case.encode()))
    images = rng.standard_normal((BATCH, 3, options["image_size"], options["image_size"])).astype(np.float32)
    return images, rng.dirichlet(np.ones(options["num_classes"]), BATCH).astype(np.float32)
