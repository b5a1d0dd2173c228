"""The script that two real ranks run for tests/test_ranks.py; each prints its results as a line of JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import mindspore
import numpy as np
from mindspore import Tensor, nn

from src.config import Config
from src.evaluation.classification import Counts
from src.runtime.distributed import StopVote, first_difference, join, launched_ranks, total_over_ranks, wait_for_all
from src.runtime.rank import run_script
from src.tools.cell import weights_checksum
from src.tools.criterion import Classification, SoftTargetCrossEntropy
from src.tools.optimizer import create_optimizer, parameter_groups
from src.trainer.train_one_step_with_scale_and_clip_global_norm import (
    Schedules,
    StepOptions,
    TrainOneStepWithScaleAndClipGlobalNorm,
)


class Linear(nn.Cell):
    """Logits of the first pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(4, 3, weight_init="ones", bias_init="zeros")

    def construct(self, image, key):
        return self.dense(image)


def main() -> None:
    mindspore.set_device("CPU")
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    ranks = launched_ranks(os.environ, 2)
    join(ranks)
    network = Linear()
    parameters = network.trainable_params()
    groups = parameter_groups(((p.name, p.shape) for p in parameters), layer_decay=1.0, depth=1)
    optimizer = create_optimizer(Config(), parameters, groups)
    step = TrainOneStepWithScaleAndClipGlobalNorm(
        Classification(network, SoftTargetCrossEntropy()),
        optimizer,
        Schedules(np.full(9, 0.1), np.zeros(9)),
        StepOptions(ranks=2),
    )
    rng = np.random.default_rng(ranks.rank)
    steps = []
    for number in range(4):
        image = rng.normal(size=(2, 4)).astype(np.float32)
        if number == 1 and ranks.rank == 1:
            image[0, 0] = np.inf
        target = np.eye(3, dtype=np.float32)[:2]
        values, skipped, scale = step(Tensor(image), Tensor(target), Tensor(np.zeros(2, np.int32)))
        steps.append(
            {
                "loss": repr(float(values.asnumpy()[0])),
                "skipped": bool(skipped.asnumpy()),
                "scale": float(scale.asnumpy()),
                "weights": weights_checksum(network),
            }
        )
    counts = Counts(images=10**6 + ranks.rank, top1=5000 + ranks.rank, top5=3, loss=0.1 + ranks.rank).over_ranks(ranks)
    vote = StopVote()
    votes = [vote(asked=ranks.rank == 1 and call >= 2) for call in range(6)]
    result = {
        "rank": ranks.rank,
        "steps": steps,
        "counts": [counts.images, counts.top1, counts.top5, counts.loss],
        "total": total_over_ranks(ranks, 7 * (ranks.rank + 1)),
        "agreeing": first_difference(ranks, {"a": 2**32 - 1, "b": 5}),
        "differing": first_difference(ranks, {"a": 1, "b": 2**31 + ranks.rank * 2**16}),
        "votes": votes,
    }
    print(json.dumps(result), flush=True)
    wait_for_all(ranks)


if __name__ == "__main__":
    run_script(main)
