"""Number types of weight files, and the check that turns what a file holds into usable float32 weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.errors import UserError


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as its 16 bits (uint16, any shape) -> the same numbers in float32: bfloat16 is its upper half."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_weights(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Every array in float32. Raises `UserError`, naming the first parameter, for integers and for NaN or infinity.

    float16 and float64 (and bfloat16, which the readers give as float32) are cast.
    """
    weights = {}
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(
                f"{path}: parameter '{name}' holds {array.dtype} where weights are floating-point numbers: "
                "give a file that is not quantized"
            )
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinity, which is refused below
            weight = np.ascontiguousarray(array, np.float32).reshape(array.shape)
        if not np.isfinite(weight).all():
            raise UserError(
                f"{path}: parameter '{name}' holds NaN or infinite values: "
                "the training that wrote the file diverged or the file is damaged; use another one"
            )
        weights[name] = weight
    return weights
