"""The objective of fine-tuning: cross entropy against a distribution over the classes."""

from __future__ import annotations

import mindspore as ms
from mindspore import Tensor, nn, ops


class SoftTargetCrossEntropy(nn.Cell):
    """`-sum_c target_c * log softmax(logits)_c`, averaged over the batch; agrees with timm's cell of the same name.

    Label smoothing and Mixup are in the target already. The arithmetic is float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(self, logits: Tensor, target: Tensor) -> Tensor:
        """`logits` [B, C] and `target` float32 [B, C], rows summing to 1 -> the mean loss, a float32 scalar."""
        log_probabilities = self.log_softmax(ops.cast(logits, ms.float32))
        return -ops.sum(target * log_probabilities) / logits.shape[0]
