"""Shapes and values of the parameters of a MindSpore network."""

from collections.abc import Mapping

import numpy as np
from mindspore import Tensor, nn

from src.weights.sizes import Shape


def parameter_shapes(network: nn.Cell) -> dict[str, Shape]:
    """Return the shape of every parameter of `network` by name."""
    return {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()}


def set_weights(network: nn.Cell, weights: Mapping[str, np.ndarray]) -> None:
    """Set the parameters named in `weights`, cast to the parameter's type.

    Raises `KeyError` for a name that `network` does not have and `ValueError` for another shape.
    """
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    for name, value in weights.items():
        parameter = parameters[name]
        if tuple(parameter.shape) != value.shape:
            raise ValueError(f"{name}: {value.shape} does not fit {tuple(parameter.shape)}")
        parameter.set_data(Tensor(np.ascontiguousarray(value), parameter.dtype))
