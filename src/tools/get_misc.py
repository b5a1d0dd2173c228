"""Assembly of a run from its options: device and ranks, optimizer, training step, feed and callbacks."""

import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from mindspore import nn

from src.config import NetworkConfig, RunConfig
from src.encoder import Encoder
from src.errors import UserError
from src.files.regular_file import open_regular
from src.layers.layers import STOCK
from src.runtime.device import start_device
from src.runtime.distributed import Ranks, join, launched_ranks, total_over_ranks
from src.tools.callback import (
    CurvesPicture,
    MetricsCsv,
    PrintedLines,
    ProgressBar,
    RemovedFolders,
    Unessential,
    UnreadableLines,
)
from src.tools.cell import weights_of
from src.tools.compile_cache import cached_step
from src.tools.logs import start_logging
from src.tools.memory_need import Need, require_memory, require_memory_for_steps
from src.tools.optimizer import create_optimizer, parameter_groups
from src.tools.resume import ResumePoint, run_checkpoint
from src.tools.run_folder import Folders, check_space, make_run_folder, run_name, write_class_names
from src.tools.same_weights import SameWeights
from src.tools.saving import BestCheckpoints, CurrentCheckpoints, LastCheckpoint, Snapshot
from src.tools.schedulers import learning_rates, weight_decays
from src.tools.starting_point import load_starting_weights, set_starting_point
from src.tools.summaries import Summaries
from src.trainer.accumulation import AccumulatedStep, TrainStep
from src.trainer.ema import METRIC_PREFIX, WeightEMA
from src.trainer.feed import host_steps, sink_steps
from src.trainer.loop import Callback, EpochSteps, RunState
from src.trainer.task import Objective, Task
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import (
    LossScaling,
    Schedules,
    StepOptions,
    TrainOneStepWithScaleAndClipGlobalNorm,
)
from src.weights.checkpoint import AnyCheckpoint

logger = logging.getLogger("beit")


def start(config: RunConfig, need: Need | None = None) -> Ranks:
    """Choose the device and join the other ranks. Raises `UserError` if memory cannot hold the `need`."""
    if need is not None:
        require_memory(need, config.batch_size)
    ranks = launched_ranks(os.environ, config.device_num)
    device_id = ranks.local_rank if ranks.size > 1 else config.device_id
    start_device(config.device_target, device_id, pynative=config.pynative_mode)
    join(ranks)
    return ranks


def start_logs(config: RunConfig, ranks: Ranks) -> None:
    """Open a log file for each rank; the first rank also prints its lines. Raises `UserError` if it cannot."""
    path = make_run_folder(config.logs_root_dir, run_name(config)) / f"rank_{ranks.rank}.log"
    try:
        open_regular(path, "a+b", follow=False).close()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another logs_root_dir") from None
    start_logging(path, terminal=ranks.is_first)


def build_training(
    config: RunConfig, task: Task, ranks: Ranks, folders: Folders | None, resumed: ResumePoint | None
) -> tuple[RunState, TrainStep]:
    """Load the weights, build the training step, and set both to the place where the run starts or resumes."""
    steps_per_epoch = task.train_loader.steps_per_epoch
    require_memory_for_steps(config.epochs, steps_per_epoch)
    schedules = Schedules(learning_rates(config, steps_per_epoch), weight_decays(config, steps_per_epoch))
    state = RunState(
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        images_per_step=task.train_loader.global_batch,
        learning_rates=schedules.learning_rates,
        step_metrics=task.step_metrics,
        max_nonfinite_steps=config.max_nonfinite_steps,
    )
    continued = load_starting_weights(config, task.network, resumed)
    step = build_train_step(
        config, task.network, task.objective, schedules, ranks, ema_decay=task.ema_decay, reports_norm=task.reports_norm
    )
    check_space(config, folders, task.network, step)
    set_starting_point(config, step.state(), state, continued)
    return state, step


def build_train_step(
    config: RunConfig,
    network: nn.Cell,
    objective: Objective,
    schedules: Schedules,
    ranks: Ranks,
    *,
    ema_decay: float | None = None,
    reports_norm: bool = False,
) -> TrainStep:
    """Build the training step. Load the weights first: the moving average and float16's masters start as copies."""
    layers = network.layers if isinstance(network, Encoder) else STOCK
    parameters = network.trainable_params()
    groups = parameter_groups(
        ((parameter.name, parameter.shape) for parameter in parameters),
        layer_decay=config.layer_decay if isinstance(config, NetworkConfig) else 1.0,
        depth=len(network.blocks) if isinstance(network, Encoder) else 0,
    )
    optimizer = create_optimizer(config, parameters, groups, layers.adamw)
    options = StepOptions(
        loss_scaling=LossScaling(config.loss_scale, config.is_dynamic_loss_scale),
        clip_grad_norm=config.clip_grad_norm if config.use_clip_grad_norm else None,
        accumulation_steps=config.accumulation_steps,
        ranks=ranks.size,
        reports_norm=reports_norm,
        square_sum=layers.square_sum,
    )
    if ema_decay is not None:
        step = TrainOneStepWithEMA(objective, optimizer, schedules, ema_decay, options)
    else:
        step = TrainOneStepWithScaleAndClipGlobalNorm(objective, optimizer, schedules, options)
    return AccumulatedStep(step, config.accumulation_steps) if config.accumulation_steps > 1 else step


def build_feed(config: RunConfig, task: Task, step: TrainStep, ranks: Ranks) -> EpochSteps:
    """Return a function that runs the steps of an epoch: from the device's queue if it has one, else from the host."""
    take = cached_step(step, config, config.epochs * task.train_loader.steps_per_epoch, ranks.size)
    if config.dataset_sink_mode and config.device_target != "CPU":
        return sink_steps(take, task.train_loader, task.batch_fields, config.epochs)
    if config.dataset_sink_mode:
        logger.info("dataset_sink_mode is for GPU and Ascend: on the CPU, the host feeds every step")
    return host_steps(take, task.train_loader)


def build_callbacks(
    config: RunConfig,
    task: Task,
    step: TrainStep,
    state: RunState,
    options: Mapping[str, Any],
    ranks: Ranks,
    folders: Folders | None,
) -> list[Callback]:
    """Return everything that prints, records and saves; ranks other than the first only log.

    `options` identify the run in its checkpoints; see `src.tools.resume.run_options`.
    """
    callbacks: list[Callback] = [PrintedLines(config.print_loss_every, task.metrics, task.val_images)]
    if ranks.size > 1:
        callbacks.append(SameWeights(ranks, task.network))
    if folders is not None:
        metrics, curves = folders.logs / "metrics.csv", folders.logs / "curves.png"
        updated = step.update if isinstance(step, AccumulatedStep) else step
        if task.info.class_names:
            write_class_names(folders.checkpoints, task.info.class_names)
            write_class_names(folders.best, task.info.class_names)
        callbacks += [
            RemovedFolders((folders.checkpoints, folders.best, folders.logs, folders.summaries)),
            Unessential(ProgressBar(task.ranked_by), "the progress bar"),
            # First of those that write files: after a kill, the others restore theirs from this one.
            CurrentCheckpoints(config, folders.checkpoints, partial(run_checkpoint, step, task, state, options)),
            build_best(config, task, step.ema, folders),
            Unessential(MetricsCsv(metrics, task.metrics), str(metrics)),
            Unessential(CurvesPicture(curves, task.charts), str(curves)),
            Unessential(Summaries(config, folders.summaries, updated), str(folders.summaries)),
        ]
    unreadable = task.train_loader.unreadable
    return [*callbacks, UnreadableLines(unreadable, partial(total_over_ranks, ranks))]


def build_best(config: RunConfig, task: Task, ema: WeightEMA | None, folders: Folders) -> Callback:
    """Return the callback that saves the best weights."""
    snapshots: dict[str, Snapshot] = {"": lambda: AnyCheckpoint(weights_of(task.network), task.info)}
    if task.ranked_by is None:
        return LastCheckpoint(folders.best, snapshots[""])
    if ema is not None:
        snapshots[METRIC_PREFIX] = lambda: AnyCheckpoint(ema.arrays(), task.info)
    return BestCheckpoints(folders.best, config.arch, config.best_ckpt_num, task.ranked_by, snapshots)
