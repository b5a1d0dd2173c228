"""The objective of fine-tuning: cross entropy against a distribution over the classes."""

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.trainer.task import Objective


class SoftTargetCrossEntropy(nn.Cell):
    """`-sum_c target_c * log softmax(logits)_c`, averaged over the batch; agrees with timm's cell of the same name.

    The target already includes label smoothing and Mixup. The arithmetic is float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_softmax = ops.LogSoftmax(-1)

    def construct(self, logits: Tensor, target: Tensor) -> Tensor:
        """`logits` [B, C] and `target` float32 [B, C], rows summing to 1 -> the mean loss, float32 []."""
        log_probabilities = self.log_softmax(ops.cast(logits, ms.float32))
        return -ops.sum(target * log_probabilities) / logits.shape[0]


class Classification(Objective):
    """The objective of fine-tuning: the `criterion` of the logits of `network`, without further metrics."""

    def __init__(self, network: nn.Cell, criterion: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # a prefix would rename the network's parameters
        self.network = network
        self.criterion = criterion

    def construct(self, image: Tensor, target: Tensor, key: Tensor) -> Tensor:
        """Image float32 [B, 3, S, S], target float32 [B, C], key int32 [B] -> the mean loss, float32 [1]."""
        return ops.cast(self.criterion(self.network(image, key), target), ms.float32).reshape(1)
