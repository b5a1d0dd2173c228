"""Mixed precision: the number types of an AMP level, given to every layer when it is built."""

from dataclasses import dataclass

import mindspore as ms


@dataclass(frozen=True)
class Precision:
    """Number types of matrix multiplications, of the values between the layers of a branch, and of the parameters."""

    matmul: ms.dtype = ms.float32
    activation: ms.dtype = ms.float32
    weight: ms.dtype = ms.float32


# At every level softmax, GELU, layer norm, the residual sum and the logits are float32: float16 sums overflow or lose
# digits, and a float16 residual sum would round away a branch whose layer scale is 1e-5.
AMP_LEVELS: dict[str, Precision] = {
    #              matmul      activation   weight
    "O0": Precision(ms.float32, ms.float32, ms.float32),
    "O1": Precision(ms.float16, ms.float32, ms.float32),
    "O2": Precision(ms.float16, ms.float16, ms.float32),
    "O3": Precision(ms.float16, ms.float16, ms.float16),
}
