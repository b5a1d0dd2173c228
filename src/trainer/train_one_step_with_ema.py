"""The training step with a moving average of the weights in the same graph."""

from __future__ import annotations

from typing import Any

from mindspore import nn

from src.trainer.ema import WeightEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import TrainOneStepWithScaleAndClipGlobalNorm


class TrainOneStepWithEMA(TrainOneStepWithScaleAndClipGlobalNorm):
    """`TrainOneStepWithScaleAndClipGlobalNorm`, followed by an update of `self.ema`, a `WeightEMA`.

    Takes the same arguments and `ema_decay`.
    """

    def __init__(
        self, network: nn.Cell, criterion: nn.Cell, optimizer: nn.Cell, *, ema_decay: float, **options: Any
    ) -> None:
        self.ema = WeightEMA(optimizer.weights, ema_decay)
        super().__init__(network, criterion, optimizer, after_update=self.ema, **options)
