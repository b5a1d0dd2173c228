"""8-bit integer multiplications in an ONNX model, by ONNX Runtime's quantization."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from src.export.onnx_graph import INPUT

# Multiplications with stored weights; attention's products have none, and static ranges would not fit its scores.
QUANTIZED = ("MatMul", "Gemm")
# Unsigned weights: signed ones overflow on x86 processors without VNNI, and are not faster with it. One scale per
# output channel, because the rows differ by the layer scale folded into them.
SETTINGS = {"op_types_to_quantize": list(QUANTIZED), "per_channel": True, "weight_type": QuantType.QUInt8}


def quantize(path: Path, calibration: Iterator[np.ndarray] | None, *, large: bool) -> onnx.ModelProto:
    """Return the model of the float32 file `path` with integer multiplications.

    Without `calibration`, the model measures the range of each activation in every batch (dynamic quantization). The
    batches of `calibration` fix the ranges (static quantization). `large` means that the constants are beside the file.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _without_advice():
        quantized = Path(folder) / path.name
        if calibration is None:
            quantize_dynamic(path, quantized, use_external_data_format=large, **SETTINGS)
        else:
            quantize_static(
                path,
                quantized,
                _Batches(calibration),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                nodes_to_exclude=_without_weights(path),
                use_external_data_format=large,
                **SETTINGS,
            )
        return onnx.load(quantized)


class _Batches(CalibrationDataReader):
    """Input of ONNX Runtime's calibration."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _without_weights(path: Path) -> list[str]:
    """Return the names of the multiplications of two activations."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] not in stored]


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress ONNX Runtime's advice to optimize the model first: its graph needs no optimization."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
