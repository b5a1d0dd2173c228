"""Resuming a run: which checkpoint, whether it fits the options, and the state that checkpoints store for it."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import CALLBACKS, EXPORT, HARDWARE, RunConfig
from src.data.image_folder import ImageFolder, check_class_names
from src.errors import UserError
from src.model.tokenizer_info import Description
from src.tools.cell import weights_of
from src.tools.run_folder import run_name
from src.tools.saving import current_checkpoints
from src.trainer.accumulation import TrainStep
from src.trainer.loop import RunState
from src.trainer.task import Task
from src.weights.checkpoint import OPTIMIZER_PREFIX, AnyCheckpoint, load_checkpoint

logger = logging.getLogger("beit")

AUTO = "auto"

# Options that may change when a run resumes, beside those of the groups HARDWARE, CALLBACKS and EXPORT. They set paths,
# the division of the work, or the start of the run, and change no result.
MAY_DIFFER = frozenset(
    (
        *("dataset", "data_url", "train_dir", "val_dir", "batch_size", "accumulation_steps", "num_parallel_workers"),
        *("pynative_mode", "dataset_sink_mode", "start_epoch", "pretrained", "exclude_epoch_state", "resume"),
        *("file_format", "max_nonfinite_steps", "max_bad_images", "dry_run", "tokenizer"),
    )
)

TRAINING_STATE = frozenset({"epoch", "step", "steps_per_epoch", "meter", "history", "options"})


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint with the state of a training run, read from `path`. Raises `UserError` without that state."""

    path: Path
    checkpoint: AnyCheckpoint[Description]

    def __post_init__(self) -> None:
        if not self.checkpoint.optimizer or not TRAINING_STATE.issubset(self.training):
            raise UserError(
                f"{self.path} has weights but no state of a training run: give a file of ckpt_root_dir, or load only "
                f"its weights (pretrained, with exclude_epoch_state True)"
            )

    @property
    def training(self) -> Mapping[str, Any]:
        """The values of `training_state`."""
        return self.checkpoint.training or {}


def run_options(config: RunConfig, images: int, ranks: int) -> dict[str, Any]:
    """Return, as values of JSON, what identifies a run: the options that change its results, and its images."""
    options = {
        option.name: getattr(config, option.name)
        for option in dataclasses.fields(config)
        if option.metadata["group"] not in (HARDWARE, CALLBACKS, EXPORT) and option.name not in MAY_DIFFER
    }
    options |= {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    return options | {
        "images per step": config.batch_size * config.accumulation_steps * ranks,
        "training images": images,
    }


def find_resumed(config: RunConfig, options: Mapping[str, Any], images: ImageFolder) -> ResumePoint | None:
    """Return the checkpoint that the option `resume` asks for, or None for a new run.

    Raises `UserError` if its run had other `options` (see `run_options`) or training images of other classes.
    """
    if config.resume is None:
        return None
    if config.resume == AUTO:
        point = newest_checkpoint(Path(config.ckpt_root_dir) / run_name(config), config.arch)
    else:
        point = given_checkpoint(Path(config.resume), config.arch)
    if point is not None:
        check_same_run(options, point)
        check_class_names(point.checkpoint.info.class_names, images, f"the checkpoint {point.path}")
    return point


def newest_checkpoint(folder: Path, arch: str) -> ResumePoint | None:
    """Return the newest good checkpoint in `folder`, None without checkpoints; `UserError` if all are damaged."""
    found = list(current_checkpoints(folder, arch))
    for path in reversed(found):
        try:
            point = ResumePoint(path, load_checkpoint(path))
        except UserError as error:
            logger.info("skipped: %s", error)
            continue
        logger.info("resuming %s, the newest good checkpoint of %s", path, folder)
        return point
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {folder} can be resumed (the newest is {found[-1].name}): "
            f"move them away to start from the beginning"
        )
    logger.info("no checkpoint to resume in %s: starting from the beginning", folder)
    return None


def given_checkpoint(path: Path, arch: str) -> ResumePoint:
    """Read the checkpoint `path`; raises `UserError` if it is damaged, or later ones of its run are beside it."""
    found = list(current_checkpoints(path.parent, arch))
    later = [other.name for other in found[found.index(path) + 1 :]] if path in found else []
    if later:
        raise UserError(
            f"{path} has later checkpoints of its run beside it, which would be overwritten ({', '.join(later)}): "
            f"move {'it' if len(later) == 1 else 'them'} away, or pass --resume auto"
        )
    point = ResumePoint(path, load_checkpoint(path))
    logger.info("resuming %s", path)
    return point


def check_same_run(options: Mapping[str, Any], point: ResumePoint) -> None:
    """Raise `UserError`, naming each differing option with both values, unless the run of `point` had these `options`.

    Options that only one of the two has are ignored: another version of this program wrote the file.
    """
    stored = point.training["options"]
    differing = [
        f"{name} is {options[name]} here and {stored[name]} there"
        for name in options
        if name in stored and options[name] != stored[name]
    ]
    if differing:
        raise UserError(
            f"{point.path} is from a run with other options ({'; '.join(differing)}): set the same values to resume "
            f"it, or start a new run from it with --pretrained {point.path} and another --model_postfix"
        )


def run_checkpoint(
    step: TrainStep, task: Task, state: RunState, options: Mapping[str, Any]
) -> AnyCheckpoint[Description]:
    """Return the whole state of a run, from which it resumes; `options` are those of `run_options`."""
    optimizer = {name: p.asnumpy() for name, p in step.state().items() if name.startswith(OPTIMIZER_PREFIX)}
    return AnyCheckpoint(
        weights=weights_of(task.network),
        info=task.info,
        ema=None if step.ema is None else step.ema.arrays(),
        optimizer={name.removeprefix(OPTIMIZER_PREFIX): array for name, array in optimizer.items()},
        training=training_state(state, options),
    )


def training_state(state: RunState, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a run's state that is not arrays, as values of JSON: place, history and options.

    The place is the next step. After the last step of an epoch, that is the first of the next one; if the epoch has not
    been evaluated, it is the step after the last, so that a resumed run begins with the evaluation.
    """
    epoch, step = divmod(state.iteration, state.steps_per_epoch)
    if state.unevaluated:
        epoch, step = state.epoch, state.step
    return {
        "epoch": epoch,
        "step": step,
        "steps_per_epoch": state.steps_per_epoch,
        "meter": state.meter.as_json(),
        "history": state.history,
        "options": dict(options),
    }
