"""The formats that a network is exported to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from src.export.mindir_file import load_mindir, write_air, write_mindir
from src.export.onnx_export import OnnxOptions, export_onnx
from src.model.model_info import ModelInfo
from src.prediction.loaded_network import Network
from src.vit import VisionTransformer


def write_model(
    file_format: str,
    network: VisionTransformer,
    info: ModelInfo,
    weights: Mapping[str, np.ndarray],
    path: Path,
    onnx_options: OnnxOptions,
) -> Network | None:
    """Write `network` to `path` as ONNX, MINDIR or AIR; returns the written file, loaded again and ready to run.

    `info` and `weights` (under the authors' names) are those of `network`. ONNX files run in ONNX Runtime on the CPU,
    MINDIR files in MindSpore on its current device. `None` for AIR, which MindSpore writes and cannot load.
    """
    if file_format == "ONNX":
        return export_onnx(info, weights, path, onnx_options)
    if file_format == "MINDIR":
        write_mindir(network, info, path)
        return Network(load_mindir(path), info, fixed_batch=True)
    write_air(network, info.model.image_size, path)
    return None
