"""Rebuild the network of a checkpoint, with its weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.layers.layers import Layers
from src.model.model_config import TrainingOptions
from src.model.model_info import ModelInfo
from src.vit import VisionTransformer, create_model
from src.weights.agreement import require_head


def rebuild_network(
    info: ModelInfo,
    weights: Mapping[str, np.ndarray],
    path: Path,
    amp_level: str = "O0",
    layers: Layers | None = None,
) -> VisionTransformer:
    """Build the network of `info` with `weights` (float32, the authors' names), in evaluation mode.

    `path` names the checkpoint in errors. `layers` is the implementation of the layers, by default the fastest one.
    Raises `UserError` for a checkpoint without a classification head.
    """
    require_head(info, path)
    # drawing initial weights would take 1.2 s for BEiT-base
    network = create_model(info.model, TrainingOptions(seed=None), amp_level, layers)
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weights[name], parameter.dtype))
    return network.set_train(False)
