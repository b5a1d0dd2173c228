"""ONNX graphs of networks of any size from flat options, as the recipes of the golden values list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import onnx

from src.export.onnx_graph import beit_graph
from src.model.model_config import ModelConfig
from src.model.variants import Variant


def graph_of(options: Mapping[str, Any], weights: Mapping[str, np.ndarray], **choices: Any) -> onnx.ModelProto:
    """Build the graph of a network made by `tests.networks.small_network` with `options`."""
    options = {"arch": "none", "num_classes": 1000, **options}
    options["layer_scale"] = options.get("layer_scale_init_value", 0.1) > 0
    model, variant = (
        kind(**{field.name: options[field.name] for field in fields(kind) if field.name in options})
        for kind in (ModelConfig, Variant)
    )
    return beit_graph(weights, model, variant, **choices)
