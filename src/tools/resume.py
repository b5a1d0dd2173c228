"""Taking up a run that was stopped: which checkpoint, whether the options fit it, and what it holds beside weights."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from src.config import CALLBACKS, EXPORT, HARDWARE, Config
from src.errors import UserError
from src.tools.saving import checkpoint_place, current_checkpoints
from src.trainer.loop import RunState, StepMeter
from src.weights.checkpoint import Checkpoint, load_checkpoint

logger = logging.getLogger("beit")

AUTO = "auto"

# Options that may be others when a run is taken up, beside those of the groups HARDWARE, CALLBACKS and EXPORT: they say
# where things are, how the work is divided or what the run started from, and do not change what is computed.
MAY_DIFFER = frozenset(
    {
        "dataset",
        "data_url",
        "train_dir",
        "val_dir",
        "batch_size",
        "accumulation_steps",
        "num_parallel_workers",
        "pynative_mode",
        "dataset_sink_mode",
        "start_epoch",
        "pretrained",
        "exclude_epoch_state",
        "resume",
        "file_format",
        "max_nonfinite_steps",
        "max_bad_images",
    }
)

TRAINING_STATE = frozenset({"epoch", "step", "steps_per_epoch", "meter", "history", "options"})


@dataclass(frozen=True)
class ResumePoint:
    """A checkpoint of a run, which holds the state of its training."""

    path: Path
    checkpoint: Checkpoint


def run_options(config: Config, images: int, validation_images: int, ranks: int) -> dict[str, Any]:
    """What makes a run this run and no other, as JSON has it: the options that training depends on, and its images."""
    options = {
        option.name: getattr(config, option.name)
        for option in dataclasses.fields(Config)
        if option.metadata["group"] not in (HARDWARE, CALLBACKS, EXPORT) and option.name not in MAY_DIFFER
    }
    options |= {name: list(value) for name, value in options.items() if isinstance(value, tuple)}
    return options | {
        "images per step": config.batch_size * config.accumulation_steps * ranks,
        "training images": images,
        "validation images": validation_images,
    }


def find_resume_point(resume: str | None, folder: Path, arch: str) -> ResumePoint | None:
    """The checkpoint that `resume` means: a file, or with `auto` the newest good one of the run's `folder`.

    None where the run starts afresh: without `resume`, and with `auto` where there is no checkpoint. Raises
    `UserError` for a damaged file, a file that others of its run follow, and a folder with nothing but damaged ones.
    """
    if resume is None:
        return None
    if resume != AUTO:
        return _given(Path(resume), arch)
    found = current_checkpoints(folder, arch)
    for path in reversed(found):
        try:
            point = ResumePoint(path, require_state(load_checkpoint(path), path))
        except UserError as error:
            logger.info("passed over: %s", error)
            continue
        logger.info("resuming %s, the newest good checkpoint of %s", path, folder)
        return point
    if found:
        raise UserError(
            f"none of the {len(found)} checkpoints in {folder} is good (the newest is {found[-1].name}): "
            f"move them away to start afresh"
        )
    logger.info("nothing to resume in %s: starting afresh", folder)
    return None


def _given(path: Path, arch: str) -> ResumePoint:
    place = checkpoint_place(path, arch)
    later = [other.name for other in current_checkpoints(path.parent, arch) if checkpoint_place(other, arch) > place]
    if place and later:
        raise UserError(
            f"{path} is followed by {', '.join(later)}, which this run would write again: "
            f"move {'it' if len(later) == 1 else 'them'} away, or pass --resume auto"
        )
    point = ResumePoint(path, require_state(load_checkpoint(path), path))
    logger.info("resuming %s", path)
    return point


def require_state(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """`checkpoint`, of the file `path`; `UserError` where it holds no state of a training run."""
    if not checkpoint.optimizer or not TRAINING_STATE.issubset(checkpoint.training or {}):
        raise UserError(
            f"{path} holds weights without the state of a training run: give one of ckpt_root_dir's files, "
            f"or take only its weights (pretrained, with exclude_epoch_state True)"
        )
    return checkpoint


def check_same_run(options: Mapping[str, Any], point: ResumePoint) -> None:
    """Raise `UserError`, naming each option that differs with both values, unless `point` is of a run with `options`.

    Options that only one of both has are passed over: the other is of another version of this program.
    """
    stored = (point.checkpoint.training or {}).get("options", {})
    differing = [
        f"{name} is {options[name]} here and {stored[name]} there"
        for name in options
        if name in stored and options[name] != stored[name]
    ]
    if differing:
        raise UserError(
            f"{point.path} is of a run with other options: {'; '.join(differing)}: give the same to resume it, "
            f"or start from it with --pretrained {point.path} and another --model_postfix"
        )


def training_state(state: RunState, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds of a run beside arrays, as JSON: its place, its record and its options."""
    return {
        "epoch": state.iteration // state.steps_per_epoch,
        "step": state.iteration % state.steps_per_epoch,
        "steps_per_epoch": state.steps_per_epoch,
        "meter": state.meter.as_json(),
        "history": state.history,
        "options": dict(options),
    }


def restore_record(state: RunState, training: Mapping[str, Any]) -> None:
    """Give `state` the place and the record of the run that wrote `training`."""
    state.epoch, state.step = int(training["epoch"]), int(training["step"])
    state.meter = StepMeter.from_json(training["meter"])
    state.history = list(training["history"])
