"""Weights into a MindSpore network and out of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mindspore import Tensor, nn

from src.weights.sizes import Shape


def parameter_shapes(network: nn.Cell) -> dict[str, Shape]:
    """Shape of every parameter of `network`, under its name."""
    return {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()}


def get_weights(network: nn.Cell) -> dict[str, np.ndarray]:
    """A copy of every parameter of `network`, in its type, under its name."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in network.get_parameters()}


def set_weights(network: nn.Cell, weights: Mapping[str, np.ndarray]) -> None:
    """Give the parameters named in `weights` these values, cast to the parameter's type.

    Raises `KeyError` for a name that `network` does not have and `ValueError` for another shape.
    """
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    for name, value in weights.items():
        parameter = parameters[name]
        if tuple(parameter.shape) != value.shape:
            raise ValueError(f"{name}: {value.shape} does not fit {tuple(parameter.shape)}")
        parameter.set_data(Tensor(np.ascontiguousarray(value), parameter.dtype))
