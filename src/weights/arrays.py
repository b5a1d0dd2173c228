"""Conversion of arrays from weight files to finite float32 weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from src.errors import UserError

# BEiT-large with averaged weights and optimizer takes 5 GB. A sparse file may pretend any size.
MAX_FILE_BYTES = 16 * 2**30
# Weights have at most four dimensions.
MAX_DIMENSIONS = 8


def to_array(data: bytes, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """Return the numbers of `data` as an array; `ValueError`, as the rest of a sentence, where the three contradict."""
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has {len(shape)} dimensions, more than {MAX_DIMENSIONS}")
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape) if data else np.zeros(shape, dtype)


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """Convert bfloat16, given as uint16 bits, to float32, whose upper half it is."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def as_weights(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Convert float16 and float64 arrays to float32.

    Raises `UserError`, naming the first parameter, for integers, for NaN or infinity, and for an array of no numbers,
    whose shape could pretend any size of the network.
    """
    weights = {}
    for name, array in arrays.items():
        if array.size == 0:
            raise UserError(f"{path}: parameter '{name}' of shape {array.shape} has no numbers; give a complete file")
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
