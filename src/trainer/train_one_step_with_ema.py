"""The training step with a moving average of the weights in the same graph."""

from mindspore import nn

from src.trainer.ema import WeightEMA
from src.trainer.task import Objective
from src.trainer.train_one_step_with_scale_and_clip_global_norm import (
    Schedules,
    StepOptions,
    TrainOneStepWithScaleAndClipGlobalNorm,
)


class TrainOneStepWithEMA(TrainOneStepWithScaleAndClipGlobalNorm):
    """`TrainOneStepWithScaleAndClipGlobalNorm` with an average of the optimizer's weights, of decay `ema_decay`."""

    def __init__(
        self,
        objective: Objective,
        optimizer: nn.Cell,
        schedules: Schedules,
        ema_decay: float,
        options: StepOptions = StepOptions(),
    ) -> None:
        super().__init__(objective, optimizer, schedules, options, WeightEMA(optimizer.weights, ema_decay))
