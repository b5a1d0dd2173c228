"""Building of an ONNX model node by node: constants, operators and float16 casts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

# Opset 20 is the first with Gelu as one node, and IR version 9 came with it.
OPSET = 20
IR_VERSION = 9
# Largest error, as a share of a row, for which `keeps` accepts float16. Rounding to 11 bits costs 3e-4; values below
# float16's smallest normal number, such as a layer scale of 1e-5 (the initial one of BEiT-large) gives, cost more.
ROUNDING_TOLERANCE = 1e-3


class GraphWriter:
    """An ONNX model under construction; nodes run in the order in which they are added.

    With `half`, the inputs of multiplications are float16. Writes into the model directly, because `onnx.helper` would
    copy all constants twice.
    """

    def __init__(self, half: bool) -> None:
        self._half = half
        self.model = onnx.ModelProto(ir_version=IR_VERSION, opset_import=[helper.make_opsetid("", OPSET)])
        self.graph = self.model.graph
        self._stored: set[str] = set()

    def constant(self, name: str, values: np.ndarray | Sequence[int], dtype: type[np.generic] = np.float32) -> str:
        """Store an array and return its name."""
        if name in self._stored:
            raise ValueError(f"the constant {name} is already stored")
        self._stored.add(name)
        array = np.asarray(values, dtype=np.dtype(dtype).newbyteorder("<"), order="C")
        data_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.graph.initializer.add(name=name, data_type=data_type, dims=array.shape, raw_data=array.tobytes())
        return name

    def factor(self, name: str, values: np.ndarray) -> str:
        """Store an operand of multiplications: float16 in a half graph."""
        return self.constant(name, values, np.float16 if self._half else np.float32)

    def integers(self, *values: int) -> str:
        """Store a list of int64, once for all nodes that use the same, and return its name."""
        name = "integers_" + "_".join(str(value) for value in values).replace("-", "minus")
        return name if name in self._stored else self.constant(name, values, np.int64)

    def node(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output of the same name and return the name."""
        self.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def declare(self, values: Any, name: str, kind: int, shape: Sequence[int]) -> None:
        """Add a value of shape [batch, *shape] to `values`, the inputs or outputs of the graph."""
        values.append(helper.make_tensor_value_info(name, kind, ["batch", *shape]))

    def narrow(self, x: str) -> str:
        """Cast float32 `x` to the operand type of multiplications."""
        return self.node("Cast", f"{x}/half", [x], to=TensorProto.FLOAT16) if self._half else x

    def widen(self, x: str) -> str:
        """Cast the result `x` of a multiplication to float32."""
        return self.node("Cast", f"{x}/float", [x], to=TensorProto.FLOAT) if self._half else x

    def keeps(self, values: np.ndarray) -> bool:
        """Return whether `factor` would store each row of `values` [out, in] within `ROUNDING_TOLERANCE`."""
        if not self._half:
            return True
        lost = np.linalg.norm(values.astype(np.float16).astype(np.float32) - values, axis=1)
        return bool((lost <= ROUNDING_TOLERANCE * np.linalg.norm(values, axis=1)).all())
