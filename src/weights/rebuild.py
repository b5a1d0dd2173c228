"""The network that a checkpoint describes, with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Tensor

from src.model.model_info import ModelInfo
from src.vit import VisionTransformer, create_model
from src.weights.agreement import require_head


def rebuild_network(info: ModelInfo, weights: Mapping[str, np.ndarray], path: Path) -> VisionTransformer:
    """Build the network of `info`, load `weights` (float32, the authors' names) into it and set it to evaluation.

    `path` names the checkpoint in errors. Raises `UserError` for a checkpoint without a classification head.
    """
    require_head(info, path)
    network = create_model(
        info.arch,
        image_size=info.image_size,
        num_classes=info.num_classes,
        layer_scale_init_value=1.0 if info.layer_scale else 0.0,
        rel_pos_bias=info.rel_pos_bias,
        shared_rel_pos_bias=info.shared_rel_pos_bias,
        abs_pos_emb=info.abs_pos_emb,
        mean_pooling=info.mean_pooling,
        approximate_gelu=info.approximate_gelu,
    )
    for name, parameter in network.parameters_and_names():
        parameter.set_data(Tensor(weights[name]))
    return network.set_train(False)
