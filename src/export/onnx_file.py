"""Writing and checking of an ONNX file; the constants of a large model go to a file beside it."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from src.export.metadata import to_metadata
from src.model.model_info import ModelInfo

# A protobuf message cannot exceed 2 GiB; half a percent of that is more than the nodes need.
LARGEST_INLINE_BYTES = int(2**31 * 0.995)
EXTERNAL_SUFFIX = ".data"
# Shapes and axes stay in the file, because shape inference needs their values.
SMALLEST_EXTERNAL_BYTES = 1024


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
    onnx.save_model(
        model,
        path,
        save_as_external_data=sum(len(t.raw_data) for t in model.graph.initializer) > largest_inline_bytes,
        location=path.name + EXTERNAL_SUFFIX,
        size_threshold=SMALLEST_EXTERNAL_BYTES,
    )
    onnx.checker.check_model(path, full_check=True)
