"""Export of a BEiT to an ONNX file in a chosen precision; constants of a large model go to a file beside it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from src.data.image_batches import preparation_of
from src.data.reduction import EXACT
from src.export.checksum import seal
from src.export.folder_images import folder_batches
from src.export.metadata import to_metadata
from src.export.onnx_graph import PixelInput, beit_graph
from src.export.quantization import quantize
from src.model.model_info import ModelInfo
from src.model.variants import get_variant
from src.prediction.loaded_network import Network
from src.prediction.onnx_network import load_onnx

# Ranges settle after a few dozen images, and each image takes as long as several predictions.
CALIBRATION_IMAGES = 64
CALIBRATION_BATCH = 4

# A protobuf message cannot exceed 2 GiB; half a percent of that is more than the nodes need.
LARGEST_INLINE_BYTES = int(2**31 * 0.995)
EXTERNAL_SUFFIX = ".data"
# Shapes and axes stay in the file, because shape inference needs their values.
SMALLEST_EXTERNAL_BYTES = 1024


@dataclass(frozen=True)
class OnnxOptions:
    """Options of an ONNX file.

    Attributes:
        precision: fp32, fp16 or int8.
        with_preprocess: take raw pixels and normalize them inside.
        calibration: folder of images that fixes the activation ranges of int8; without it, each batch is measured.
        decode: how images are decoded, for the calibration and for comparisons of the file.
    """

    precision: str = "fp32"
    with_preprocess: bool = False
    calibration: Path | None = None
    decode: str = EXACT


def export_onnx(info: ModelInfo, weights: Mapping[str, np.ndarray], path: Path, options: OnnxOptions) -> Network:
    """Write the network of `info` and `weights` (the authors' names) to `path` and load it again on the CPU.

    Raises `UserError` for unusable calibration images.
    """
    graph = beit_graph(
        weights,
        info.model,
        get_variant(info.model.arch),
        half=options.precision == "fp16",
        pixel_input=PixelInput(info.mean, info.std) if options.with_preprocess else None,
    )
    if options.precision == "int8":
        batches = None
        if options.calibration is not None:
            preparation = preparation_of(info, options.with_preprocess, options.decode)
            batches = folder_batches(options.calibration, preparation, CALIBRATION_BATCH, CALIBRATION_IMAGES)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            exact = Path(folder) / path.name
            write_onnx(graph, info, exact)
            graph = quantize(exact, batches, large=exact.with_name(exact.name + EXTERNAL_SUFFIX).exists())
    write_onnx(graph, info, path, precision=options.precision)
    return load_onnx(path, "CPU", 0)


def write_onnx(
    model: onnx.ModelProto,
    info: ModelInfo,
    path: Path,
    *,
    precision: str = "fp32",
    largest_inline_bytes: int = LARGEST_INLINE_BYTES,
) -> None:
    """Write `model` with the metadata of `info` and its `precision` to `path`, and check the file with `onnx.checker`.

    Constants beyond `largest_inline_bytes` go to `<path>.data`, which must stay beside `path`; `model` then loses them.
    Raises `onnx.checker.ValidationError` for an invalid model, which is a bug.
    """
    helper.set_model_props(model, {**to_metadata(info), "precision": precision})
    beside = path.with_name(path.name + EXTERNAL_SUFFIX)
    large = sum(len(t.raw_data) for t in model.graph.initializer) > largest_inline_bytes
    onnx.save_model(
        model,
        path,
        save_as_external_data=large,
        location=beside.name,
        size_threshold=SMALLEST_EXTERNAL_BYTES,
    )
    onnx.checker.check_model(path, full_check=True)
    seal(path, [beside] if large else [])
