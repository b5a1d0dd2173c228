"""Writing a BEiT as an ONNX file in a chosen precision."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.data.image_batches import preparation_of
from src.export.images import folder_batches
from src.export.onnx_file import EXTERNAL_SUFFIX, write_onnx
from src.export.onnx_graph import PixelInput, beit_graph
from src.export.quantization import quantize
from src.model.model_info import ModelInfo
from src.model.variants import get_variant
from src.prediction.loaded_network import Network
from src.prediction.onnx_network import load_onnx

# Ranges settle after a few dozen images; each takes as long as several predictions.
CALIBRATION_IMAGES = 64
CALIBRATION_BATCH = 4


@dataclass(frozen=True)
class OnnxOptions:
    """What is to be chosen of an ONNX file.

    `precision` is fp32, fp16 or int8. `with_preprocess` takes raw pixels and normalizes them inside. `calibration` is
    the folder of images over which int8 measures the ranges of its activations once and for all; without it they are
    measured anew for every batch.
    """

    precision: str = "fp32"
    with_preprocess: bool = False
    calibration: Path | None = None


def export_onnx(info: ModelInfo, weights: Mapping[str, np.ndarray], path: Path, options: OnnxOptions) -> Network:
    """Write the network of `info` and `weights` (the authors' names) to `path`; gives it loaded again, on the CPU.

    Raises `UserError` for a folder of calibration images that cannot be used.
    """
    graph = beit_graph(
        weights,
        image_size=info.model.image_size,
        num_heads=get_variant(info.model.arch).num_heads,
        approximate_gelu=info.model.approximate_gelu,
        layer_norm_eps=info.model.layer_norm_eps,
        half=options.precision == "fp16",
        pixel_input=PixelInput(info.mean, info.std) if options.with_preprocess else None,
    )
    if options.precision == "int8":
        batches = None
        if options.calibration is not None:
            preparation = preparation_of(info, options.with_preprocess)
            batches = folder_batches(options.calibration, preparation, CALIBRATION_BATCH, CALIBRATION_IMAGES)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            exact = Path(folder) / path.name
            write_onnx(graph, info, exact)
            graph = quantize(exact, batches, large=exact.with_name(exact.name + EXTERNAL_SUFFIX).exists())
    write_onnx(graph, info, path, precision=options.precision)
    return load_onnx(path, "CPU", 0)
