"""Conversion of arrays from weight files to finite float32 weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.errors import UserError


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16, given as uint16 bits, to float32, whose upper half it is."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_weights(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Convert float16 and float64 arrays to float32.

    Raises `UserError`, naming the first parameter, for integers and for NaN or infinity.
    """
    weights = {}
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise UserError(
                f"{path}: parameter '{name}' has type {array.dtype}, but weights are floating-point numbers; "
                "give a file that is not quantized"
            )
        with np.errstate(over="ignore"):  # a float64 beyond the range of float32 becomes infinity, refused below
            weight = np.asarray(array, np.float32, order="C")
        if not np.isfinite(weight).all():
            raise UserError(
                f"{path}: parameter '{name}' has NaN or infinite values; use the file of a training run that did not "
                "diverge, or download it again"
            )
        weights[name] = weight
    return weights
