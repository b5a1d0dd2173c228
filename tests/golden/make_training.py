"""Write tests/golden/training/: a checkpoint of a run that stopped in the middle of an epoch, and how the run ends.

Checkpoints of earlier versions must resume, so the files were written once, by commit 47f2f5b, and stay. Later versions
have other functions: check that commit out to run `python -m tests.golden.make_training` again.
"""

from __future__ import annotations

from pathlib import Path

import mindspore
import numpy as np
from src.trainer.evaluate import EvalResult
from src.weights.parameters import get_weights

from src.data.imagenet import TrainBatch
from src.model.model_info import ModelInfo
from src.tools.criterion import SoftTargetCrossEntropy
from src.tools.optimizer import create_optimizer, parameter_groups
from src.tools.resume import training_state
from src.tools.saving import CurrentCheckpoints
from src.trainer.feed import host_steps
from src.trainer.loop import RunState, train
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.vit import VisionTransformer
from src.weights.checkpoint import Checkpoint
from tests.golden import training_recipe as recipe

FOLDER = Path(__file__).parent / "training"


class Loader:
    """The recipe's batches."""

    def epoch(self, epoch: int, start_step: int):
        for step in range(start_step, recipe.STEPS):
            yield TrainBatch(*recipe.batch(epoch, step))


def main() -> None:
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    run(recipe.STOP_AFTER)
    state, arrays = run(recipe.EPOCHS * recipe.STEPS)
    losses = [record["train_loss"] for record in state.history]
    moments = "optimizer.exp_avg"
    arrays = {name: array for name, array in arrays.items() if not name.startswith(moments)}
    np.savez_compressed(FOLDER / "end.npz", train_losses=losses, **arrays)


def run(steps: int) -> tuple[RunState, dict[str, np.ndarray]]:
    """Train so many steps from the beginning and write a checkpoint where the run stops before its end."""
    network = VisionTransformer(
        **recipe.SIZES,
        num_classes=recipe.NUM_CLASSES,
        drop=recipe.DROP,
        drop_path=recipe.DROP_PATH,
        init_scale=1.0,
        seed=recipe.SEED,
    ).set_train(True)
    weights = network.trainable_params()
    groups = parameter_groups(
        ((p.name, p.shape) for p in weights),
        weight_decay=recipe.WEIGHT_DECAY,
        layer_decay=recipe.LAYER_DECAY,
        depth=recipe.SIZES["depth"],
    )
    step = TrainOneStepWithEMA(
        network,
        SoftTargetCrossEntropy(),
        create_optimizer("adamw", weights, groups, beta=(0.9, 0.999), eps=1e-8, momentum=0.9),
        ema_decay=recipe.EMA_DECAY,
        learning_rates=recipe.LEARNING_RATES,
        loss_scale=recipe.LOSS_SCALE,
        dynamic_loss_scale=True,
        clip_grad_norm=recipe.CLIP_GRAD_NORM,
    )
    state = RunState(recipe.EPOCHS, recipe.STEPS, recipe.BATCH_SIZE, recipe.LEARNING_RATES)
    info = ModelInfo(recipe.ARCH, recipe.SIZES["image_size"], recipe.NUM_CLASSES, class_names=("a", "b", "c"))

    def snapshot() -> Checkpoint:
        arrays = {name: value.asnumpy() for name, value in step.state().items()}
        return Checkpoint(
            weights=get_weights(network),
            info=info,
            ema={n.removeprefix("ema."): v for n, v in arrays.items() if n.startswith("ema.")},
            optimizer={n.removeprefix("optimizer."): v for n, v in arrays.items() if n.startswith("optimizer.")},
            training=training_state(state, recipe.OPTIONS),
        )

    def validate(state: RunState) -> None:
        state.result = EvalResult(0.5, 50.0 + state.epoch, 100.0, 9)
        state.ema_result = EvalResult(0.25, 60.0 + state.epoch, 100.0, 9)

    saved = CurrentCheckpoints(FOLDER, recipe.ARCH, 1, 0, 0, snapshot)
    callbacks = [saved] if steps < recipe.EPOCHS * recipe.STEPS else []
    train(host_steps(step, Loader(), 1), validate, callbacks, state, lambda asked: state.iteration == steps)
    return state, get_weights(network) | {name: value.asnumpy() for name, value in step.state().items()}


if __name__ == "__main__":
    main()
