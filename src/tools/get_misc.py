"""Assembly of a run from its parts: each function turns options into one of them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.config import Config
from src.data.assembly import build_eval_loader, describe_model, model_config
from src.data.imagenet import EvalLoader, ImageFolder, TrainLoader, check_class_names
from src.errors import UserError
from src.model.model_config import TrainingOptions
from src.model.model_info import ModelInfo
from src.report.of_run import report_on
from src.runtime.device import start_device
from src.runtime.distributed import (
    Ranks,
    StopVote,
    first_difference,
    join,
    launched_ranks,
    require_agreement,
    total_over_ranks,
)
from src.tools.callback import (
    EvaluationLines,
    MetricsCsv,
    ProgressBar,
    ProgressLines,
    Scalars,
    Summaries,
    UnreadableLines,
)
from src.tools.compile_cache import CompileCache, cache_key
from src.tools.criterion import SoftTargetCrossEntropy
from src.tools.curves import CurvesPicture
from src.tools.logs import start_logging
from src.tools.optimizer import create_optimizer, parameter_groups
from src.tools.resume import (
    ResumePoint,
    check_same_run,
    find_resume_point,
    require_state,
    run_options,
    training_state,
)
from src.tools.run_folder import (
    make_run_folder,
    require_no_earlier_run,
    require_space,
    size_of_checkpoints,
    take_folder,
    write_class_names,
)
from src.tools.same_weights import SameWeights, weights_checksum
from src.tools.saving import BestCheckpoints, CurrentCheckpoints, best_checkpoint
from src.tools.schedulers import learning_rates
from src.tools.starting_point import check_place, continue_run, load_weights, restore, start_at_epoch
from src.tools.tensorboard_file import TensorBoardFile
from src.trainer.evaluate import EvalResult, RankSum, evaluate
from src.trainer.feed import host_steps, sink_steps
from src.trainer.interrupt import SIGNALS, SIGNALS_OF_RANKS
from src.trainer.loop import Callback, RunState, StepOutput
from src.trainer.train_one_step_with_ema import TrainOneStepWithEMA
from src.trainer.train_one_step_with_scale_and_clip_global_norm import TrainOneStepWithScaleAndClipGlobalNorm
from src.vit import VisionTransformer, create_model
from src.weights.agreement import agreed_info
from src.weights.checkpoint import Checkpoint, load_checkpoint
from src.weights.network_parameters import set_weights
from src.weights.pretrained import load_pretrained
from src.weights.rebuild import rebuild_network

logger = logging.getLogger("beit")

TrainStep = TrainOneStepWithScaleAndClipGlobalNorm


@dataclass(frozen=True)
class Folders:
    """Where a run writes, each a folder of its own name inside the configured one."""

    logs: Path
    checkpoints: Path
    best: Path
    summaries: Path
    lock: IO[str]  # held open until the process ends: no other run may write here


def start(config: Config) -> Ranks:
    """Choose the device and meet the other ranks."""
    ranks = launched_ranks(os.environ, config.device_num)
    device_id = ranks.local_rank if ranks.size > 1 else config.device_id
    start_device(config.device_target, device_id, pynative=config.pynative_mode)
    join(ranks)
    return ranks


def run_name(config: Config) -> str:
    """What the run's folders are called."""
    return f"{config.arch}_{config.model_postfix}"


def start_logs(config: Config, ranks: Ranks) -> None:
    """A log file for each rank; the first one's lines are on the terminal too."""
    folder = make_run_folder(config.logs_root_dir, run_name(config))
    start_logging(folder / f"rank_{ranks.rank}.log", terminal=ranks.is_first)


def find_resumed(config: Config, train: ImageFolder, validation: ImageFolder, ranks: Ranks) -> ResumePoint | None:
    """The checkpoint that `resume` asks for, found to be of a run with these options and images."""
    point = find_resume_point(config.resume, Path(config.ckpt_root_dir) / run_name(config), config.arch)
    if point is not None:
        check_same_run(run_options(config, len(train), len(validation), ranks.size), point)
        check_class_names(point.checkpoint.info.class_names, train, f"the checkpoint {point.path}")
    return point


def make_folders(config: Config, ranks: Ranks, resumed: ResumePoint | None) -> Folders | None:
    """The run's folders, made and shown to be its own before anything slow begins; None on ranks that do not write."""
    if not ranks.is_first:
        return None
    run = run_name(config)
    checkpoints = make_run_folder(config.ckpt_root_dir, run)
    lock = take_folder(checkpoints)
    folders = Folders(
        logs=make_run_folder(config.logs_root_dir, run),
        checkpoints=checkpoints,
        best=make_run_folder(config.best_ckpt_root_dir, run),
        summaries=make_run_folder(config.summary_root_dir, run),
        lock=lock,
    )
    if resumed is None and config.start_epoch == 0 and config.exclude_epoch_state:
        for folder in (folders.checkpoints, folders.best, folders.logs):
            require_no_earlier_run(folder)
    return folders


def new_state(config: Config, loader: TrainLoader, rates: np.ndarray) -> RunState:
    """A run at its beginning."""
    return RunState(
        epochs=config.epochs,
        steps_per_epoch=loader.steps_per_epoch,
        images_per_step=loader.global_batch,
        learning_rates=rates,
        max_nonfinite_steps=config.max_nonfinite_steps,
    )


def build_network(config: Config) -> VisionTransformer:
    """Build the network with its initial weights, in training mode."""
    training = TrainingOptions(
        config.drop, config.drop_path, config.layer_scale_init_value, config.init_scale, config.seed
    )
    network = create_model(model_config(config), training, config.amp_level)
    network.set_train(True)
    return network


def load_starting_weights(config: Config, network: VisionTransformer, resumed: ResumePoint | None) -> Checkpoint | None:
    """Load the resumed run's weights into the network, or `pretrained` where it is given; give what was loaded."""
    if resumed is not None:
        restore({p.name: p for p in network.get_parameters()}, resumed.checkpoint.weights, resumed.path)
        return resumed.checkpoint
    if config.pretrained is not None:
        path = Path(config.pretrained)
        return load_weights(network, path, approximate_gelu=not config.disable_approximate_gelu)
    if not config.exclude_epoch_state:
        raise UserError("exclude_epoch_state is False and pretrained is empty: name the checkpoint to continue from")
    return None


def set_starting_point(
    config: Config, step: TrainStep, state: RunState, loaded: Checkpoint | None, resumed: ResumePoint | None
) -> None:
    """Where the run begins: where the loaded file's run stood, or at `start_epoch`."""
    if resumed is not None:
        continue_run(step.state(), state, resumed.checkpoint, resumed.path)
        if state.epoch == state.epochs:
            logger.info("all %d epochs are done: nothing is left to train", state.epochs)
    elif loaded is not None and not config.exclude_epoch_state:
        path = Path(str(config.pretrained))
        check_place(state, require_state(loaded, path), path, config.start_epoch)
        continue_run(step.state(), state, loaded, path)
    else:
        start_at_epoch(step.state(), state, config.start_epoch)


def read_checkpoint(config: Config) -> tuple[Checkpoint, ModelInfo]:
    """The checkpoint to evaluate, and what its network is, agreed between the file and the options."""
    path = Path(str(config.pretrained))
    checkpoint = load_pretrained(path, arch=config.arch)
    if config.num_classes == 0:
        config = dataclasses.replace(config, num_classes=checkpoint.info.model.num_classes)
    return checkpoint, agreed_info(checkpoint.info, checkpoint.guessed, describe_model(config, ()), path)


def check_labels(config: Config, info: ModelInfo, images: ImageFolder) -> None:
    """Refuse images whose class folders are not the network's classes: their labels would mean something else."""
    if info.class_names:
        check_class_names(info.class_names, images, f"the checkpoint {config.pretrained}")
    elif len(images.classes) != info.model.num_classes:
        raise UserError(
            f"{config.pretrained} is for {info.model.num_classes} classes and {images.root} holds "
            f"{len(images.classes)} class folders: give one folder for each class"
        )


def rebuild(config: Config, checkpoint: Checkpoint, info: ModelInfo) -> VisionTransformer:
    """The checkpoint's network at the precision of `amp_level`, in evaluation mode."""
    return rebuild_network(info, checkpoint.weights, Path(str(config.pretrained)), config.amp_level)


def build_learning_rates(config: Config, steps_per_epoch: int) -> np.ndarray:
    """The schedule, float64 [epochs * steps_per_epoch]."""
    return learning_rates(
        config.lr_scheduler,
        base_lr=config.base_lr,
        min_lr=config.min_lr,
        warmup_lr=config.warmup_lr,
        warmup_epochs=config.warmup_length,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        lr_adjust=config.lr_adjust,
        lr_gamma=config.lr_gamma,
    )


def build_train_step(config: Config, network: VisionTransformer, rates: np.ndarray, ranks: Ranks) -> TrainStep:
    """The training step. Load the weights first: the moving average and float16's masters start as copies of them."""
    parameters = network.trainable_params()
    groups = parameter_groups(
        ((parameter.name, parameter.shape) for parameter in parameters),
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        depth=len(network.blocks),
    )
    beta1, beta2 = config.beta
    optimizer = create_optimizer(
        config.optimizer, parameters, groups, beta=(beta1, beta2), eps=config.eps, momentum=config.momentum
    )
    options: dict[str, Any] = {
        "learning_rates": rates,
        "loss_scale": config.loss_scale,
        "dynamic_loss_scale": config.is_dynamic_loss_scale,
        "clip_grad_norm": config.clip_grad_norm if config.use_clip_grad_norm else None,
        "accumulation_steps": config.accumulation_steps,
        "ranks": ranks.size,
    }
    if config.compile_cache is not None:
        key = cache_key(config, len(rates), ranks.size)
        options["compiling"] = CompileCache(Path(config.compile_cache).absolute() / key)
    criterion = SoftTargetCrossEntropy()
    if config.with_ema:
        return TrainOneStepWithEMA(network, criterion, optimizer, ema_decay=config.ema_decay, **options)
    return TrainOneStepWithScaleAndClipGlobalNorm(network, criterion, optimizer, **options)


def build_feed(
    config: Config, step: TrainStep, loader: TrainLoader
) -> Callable[[int, int], Generator[StepOutput, None, None]]:
    """How the steps of an epoch are taken: through the device's queue where it has one, from the host otherwise."""
    if config.dataset_sink_mode and config.device_target != "CPU":
        return sink_steps(step, loader, config.accumulation_steps, config.epochs)
    if config.dataset_sink_mode:
        logger.info("dataset_sink_mode is for GPU and Ascend: on the CPU every step is fed from the host")
    return host_steps(step, loader, config.accumulation_steps)


def build_evaluation(network: VisionTransformer, loader: EvalLoader, ranks: Ranks) -> Callable[[], EvalResult]:
    """Evaluation of the network as it is at the time of the call, over all ranks."""
    total = RankSum().total if ranks.size > 1 else lambda counts: counts

    def run() -> EvalResult:
        training = network.training
        network.set_train(False)
        try:
            return evaluate(network, loader, total)
        finally:
            network.set_train(training)

    return run


def build_validation(step: TrainStep, evaluation: Callable[[], EvalResult]) -> Callable[[RunState], None]:
    """What follows an epoch: evaluation of the weights and, where there is one, of their moving average."""

    def validate(state: RunState) -> None:
        state.result = evaluation()
        if isinstance(step, TrainOneStepWithEMA):
            with step.ema.swapped():
                state.ema_result = evaluation()

    return validate


def check_ranks_agree(
    ranks: Ranks, network: VisionTransformer, options: Mapping[str, Any], images: ImageFolder
) -> None:
    """Refuse to train where the ranks, which may run on hosts with disks of their own, do not start from the same."""
    things = {
        "options": zlib.crc32(json.dumps(options, sort_keys=True).encode()),
        "training images": zlib.crc32(repr(images.classes).encode(), zlib.crc32(images.labels.tobytes())),
        "weights": weights_checksum(network),
    }
    require_agreement(ranks, things)


def differing_rank(ranks: Ranks, checksum: int) -> int | None:
    """The first rank with another `checksum` of its weights than rank 0."""
    difference = first_difference(ranks, {"weights": checksum})
    return difference[1] if difference is not None else None


def stop_signals(ranks: Ranks) -> Sequence[signal.Signals]:
    """What asks this process to stop."""
    return SIGNALS_OF_RANKS if ranks.size > 1 else SIGNALS


def build_stop_vote(ranks: Ranks) -> Callable[[bool], bool]:
    """How the ranks agree on the step to stop after."""
    return StopVote() if ranks.size > 1 else lambda asked: asked


def check_space(config: Config, folders: Folders | None, network: VisionTransformer, step: TrainStep) -> None:
    """Refuse to train where the checkpoints would not fit onto the disk; one more than is kept exists for a moment."""
    if folders is None:
        return
    weights = sum(p.size * 4 for p in network.get_parameters())
    whole = weights + sum(p.nbytes for p in step.state().values())
    kinds = 2 if isinstance(step, TrainOneStepWithEMA) else 1
    needs = {
        folders.checkpoints: (config.ckpt_keep_num + 1) * whole,
        folders.best: (config.best_ckpt_num + 1) * kinds * weights,
    }
    require_space({folder: need - size_of_checkpoints(folder) for folder, need in needs.items()})


def build_callbacks(
    config: Config,
    folders: Folders | None,
    network: VisionTransformer,
    step: TrainStep,
    info: ModelInfo,
    state: RunState,
    options: Mapping[str, Any],
    loader: TrainLoader,
    ranks: Ranks,
) -> list[Callback]:
    """What the first rank prints, records and saves; other ranks only log. `options`: see `run_options`."""
    lines: list[Callback] = [ProgressLines(config.print_loss_every), EvaluationLines()]
    if ranks.size > 1:
        lines.append(SameWeights(ranks.size, lambda: weights_checksum(network), lambda own: differing_rank(ranks, own)))
    unreadable = UnreadableLines(loader.unreadable, lambda number: total_over_ranks(ranks, number))
    if folders is None:
        return [*lines, unreadable]
    write_class_names(folders.checkpoints, info.class_names)
    write_class_names(folders.best, info.class_names)

    def whole() -> Checkpoint:
        state_arrays = {name: value.asnumpy() for name, value in step.state().items()}
        return Checkpoint(
            weights=weights_of(network),
            info=info,
            ema={n.removeprefix("ema."): v for n, v in state_arrays.items() if n.startswith("ema.")} or None,
            optimizer={n.removeprefix("optimizer."): v for n, v in state_arrays.items() if n.startswith("optimizer.")},
            training=training_state(state, options),
        )

    best: list[Callback] = [
        BestCheckpoints(folders.best, config.arch, config.best_ckpt_num, lambda: Checkpoint(weights_of(network), info))
    ]
    if isinstance(step, TrainOneStepWithEMA):
        best.append(
            BestCheckpoints(
                folders.best,
                config.arch,
                config.best_ckpt_num,
                lambda: Checkpoint({p.name.removeprefix("ema."): p.asnumpy() for p in step.ema.averages}, info),
                ema=True,
            )
        )
    tensorboard: list[Callback] = []
    if config.tensorboard:
        file = TensorBoardFile(folders.summaries / "tensorboard")
        tensorboard.append(Scalars(file, config.summary_loss_collect_freq))
    return [
        *lines,
        ProgressBar(),
        # First of those that write: what a kill keeps the others from writing is made up for from its file.
        CurrentCheckpoints(
            folders.checkpoints,
            config.arch,
            config.ckpt_keep_num,
            config.ckpt_save_every_step,
            config.ckpt_save_every_seconds,
            whole,
        ),
        *best,
        MetricsCsv(folders.logs / "metrics.csv"),
        CurvesPicture(folders.logs / "curves.png"),
        Summaries(
            folders.summaries,
            config.summary_loss_collect_freq,
            step.step,
            images=config.collect_input_data,
            graph=config.dump_graph,
        ),
        *tensorboard,
        unreadable,
    ]


def report_best(
    config: Config, folders: Folders | None, network: VisionTransformer, info: ModelInfo, images: ImageFolder
) -> None:
    """Write the report on the best weights of a run that has ended, which the network then keeps; first rank only."""
    if folders is None:
        return
    path = best_checkpoint(folders.best, config.arch)
    if path is None:
        logger.info("no report: %s holds no best checkpoint", folders.best)
        return
    set_weights(network, load_checkpoint(path).weights)
    folder = folders.logs / "report"
    report_on(network, build_eval_loader(config, info, images), path, config, folder)
    logger.info("report on %s: %s", path, folder / "report.md")


def weights_of(network: VisionTransformer) -> dict[str, np.ndarray]:
    """The network's weights under the authors' names, float32."""
    return {p.name: p.asnumpy().astype(np.float32) for p in network.get_parameters()}
