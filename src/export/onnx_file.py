"""Writing an ONNX model to a file, large ones with their constants beside it, and checking what was written."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from src.export.metadata import to_metadata
from src.model.model_info import ModelInfo

# A protobuf message cannot exceed 2 GiB. Half a per cent of that is ample for the nodes.
LARGEST_INLINE_BYTES = int(2**31 * 0.995)
EXTERNAL_SUFFIX = ".data"
# Shapes and axes stay in the file itself, since shape inference needs their values.
SMALLEST_EXTERNAL_BYTES = 1024


def write_onnx(
    model: onnx.ModelProto,
    info: ModelInfo,
    path: Path,
    *,
    precision: str = "fp32",
    largest_inline_bytes: int = LARGEST_INLINE_BYTES,
) -> None:
    """Write `model` with the metadata of `info` and its `precision` to `path`; `onnx.checker` examines all of the file.

    Where the constants exceed `largest_inline_bytes` they go to `<path>.data`, which has to stay beside `path`. The
    model loses its constants on the way. Raises `onnx.checker.ValidationError` for an invalid model: a bug here.
    """
    helper.set_model_props(model, {**to_metadata(info), "precision": precision})
    onnx.save_model(
        model,
        path,
        save_as_external_data=constant_bytes(model) > largest_inline_bytes,
        location=path.name + EXTERNAL_SUFFIX,
        size_threshold=SMALLEST_EXTERNAL_BYTES,
    )
    onnx.checker.check_model(path, full_check=True)


def constant_bytes(model: onnx.ModelProto) -> int:
    """How much room the model's constants take."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
