"""The parameters of a cell: their values, their checksum, and restoring them from stored arrays."""

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn

from src.errors import UserError


def weights_of(network: nn.Cell) -> dict[str, np.ndarray]:
    """Return the weights of `network` by name, float32."""
    return {parameter.name: parameter.asnumpy().astype(np.float32) for parameter in network.get_parameters()}


def weights_checksum(network: nn.Cell) -> int:
    """Return the CRC-32 of all parameters."""
    checksum = 0
    for parameter in network.get_parameters():
        checksum = zlib.crc32(parameter.asnumpy().tobytes(), checksum)
    return checksum


def restore(parameters: Mapping[str, Parameter], stored: Mapping[str, np.ndarray], path: Path) -> None:
    """Give every parameter the array that the file `path` has `stored` under its name.

    Raises `UserError`, and changes nothing, if names or shapes differ.
    """
    differing = sorted(set(parameters) ^ set(stored))
    if differing:
        where = "only this run has" if differing[0] in parameters else "only the file has"
        raise UserError(
            f"{path} is from a run with other options ({where} {differing[0]}): "
            f"set optimizer, with_ema and amp_level as in that run"
        )
    for name, parameter in parameters.items():
        if tuple(parameter.shape) != stored[name].shape:
            raise UserError(
                f"{path} is from another network ({name} has shape {stored[name].shape} there and "
                f"{tuple(parameter.shape)} here): set the model options as in its run"
            )
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(stored[name], parameter.dtype))
