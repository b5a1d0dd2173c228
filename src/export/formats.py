"""The formats that a network is exported to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.export.check import Run
from src.export.mindspore_file import load_mindir, write_air, write_mindir
from src.export.onnx_file import write_onnx
from src.export.onnx_graph import beit_graph
from src.model_info import ModelInfo
from src.prediction.onnx_network import load_onnx
from src.variants import get_variant
from src.vit import VisionTransformer


def write_model(
    file_format: str, network: VisionTransformer, info: ModelInfo, weights: Mapping[str, np.ndarray], path: Path
) -> Run | None:
    """Write `network` to `path` as ONNX, MINDIR or AIR; returns the written file, loaded again and ready to run.

    `info` and `weights` (under the authors' names) are those of `network`. ONNX files run in ONNX Runtime on the CPU,
    MINDIR files in MindSpore on its current device. `None` for AIR, which MindSpore writes and cannot load.
    """
    if file_format == "ONNX":
        graph = beit_graph(
            weights,
            image_size=info.image_size,
            num_heads=get_variant(info.arch).num_heads,
            approximate_gelu=info.approximate_gelu,
        )
        write_onnx(graph, info, path)
        return load_onnx(path, "CPU", 0).run
    if file_format == "MINDIR":
        write_mindir(network, info, path)
        return load_mindir(path)
    write_air(network, info.image_size, path)
    return None
