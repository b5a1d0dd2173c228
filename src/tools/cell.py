"""Mixed precision, set explicitly layer by layer rather than by MindSpore's rewriting of the network."""

from __future__ import annotations

from dataclasses import dataclass

import mindspore as ms
from mindspore import nn

from src.errors import UserError


@dataclass(frozen=True)
class AmpLevel:
    """The types of matrix multiplications, of what flows between the layers of a branch, and of the parameters."""

    matmul: ms.dtype
    activation: ms.dtype
    weight: ms.dtype


AMP_LEVELS: dict[str, AmpLevel] = {
    #               matmul      activation   weight
    "O0": AmpLevel(ms.float32, ms.float32, ms.float32),
    "O1": AmpLevel(ms.float16, ms.float32, ms.float32),
    "O2": AmpLevel(ms.float16, ms.float16, ms.float32),
    "O3": AmpLevel(ms.float16, ms.float16, ms.float16),
}


def set_amp_level(network: nn.Cell, level: str) -> None:
    """Set the precision of a network made of the cells of `src.layers`. Call it before the network first runs.

    - O0: everything in float32.
    - O1: matrix multiplications in float16, everything between them in float32.
    - O2: float16 also between the layers of a branch (from layer norm to residual sum); weights stay float32 and are
      cast where they are used.
    - O3: as O2, with the parameters themselves in float16.

    At every level softmax, GELU, layer norm, the residual sum and the logits are float32: sums over float16 lose or
    overflow, and a residual sum in float16 would not feel a branch whose layer scale is 1e-5. float16 gradients need a
    loss scale.

    Raises `UserError` for another level, and `RuntimeError` for a network that has been compiled already, since its
    graph would not change.
    """
    if level not in AMP_LEVELS:
        raise UserError(f"amp_level '{level}' is unknown: choose one of {', '.join(AMP_LEVELS)}")
    if network.compile_cache:
        raise RuntimeError("set_amp_level must be called before the network first runs: its graph is compiled already")
    types = AMP_LEVELS[level]
    for _, cell in network.cells_and_names():
        if hasattr(cell, "matmul_dtype"):
            cell.matmul_dtype = types.matmul
        if hasattr(cell, "activation_dtype"):
            cell.activation_dtype = types.activation
    for parameter in network.get_parameters():
        parameter.set_dtype(types.weight)
