"""The start of a run: initial weights, the weights of a checkpoint, or its whole state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mindspore import Parameter, Tensor, nn

from src.config import Config
from src.data.assembly import describe_model
from src.errors import UserError
from src.model.model_info import ModelInfo
from src.tools.cell import restore
from src.tools.resume import ResumePoint, require_state
from src.trainer.loop import RunState, StepMeter
from src.weights.agreement import agreed_info
from src.weights.checkpoint import EMA_PREFIX, OPTIMIZER_PREFIX, Checkpoint
from src.weights.fit import fit_weights
from src.weights.network_parameters import parameter_shapes, set_weights
from src.weights.pretrained import load_pretrained

logger = logging.getLogger("beit")

ITERATION = "optimizer.iteration"


def load_starting_weights(config: Config, network: nn.Cell, resumed: ResumePoint | None) -> Checkpoint | None:
    """Load the weights of the resumed run, or those of `pretrained`, into `network`; return the loaded checkpoint."""
    if resumed is not None:
        restore({p.name: p for p in network.get_parameters()}, resumed.checkpoint.weights, resumed.path)
        return resumed.checkpoint
    if config.pretrained is not None:
        return load_weights(network, Path(config.pretrained), approximate_gelu=not config.disable_approximate_gelu)
    if not config.exclude_epoch_state:
        raise UserError("exclude_epoch_state is False but pretrained is empty: set pretrained to the file to continue")
    return None


def load_weights(network: nn.Cell, path: Path, *, approximate_gelu: bool) -> Checkpoint:
    """Load the weights of the checkpoint `path` into `network`, fitted as for fine-tuning, and log how each was used.

    Raises `UserError` for a file that is not a BEiT, or has another architecture.
    """
    checkpoint = load_pretrained(path)
    fitted, report = fit_weights(checkpoint.weights, parameter_shapes(network), path)
    set_weights(network, fitted)
    logger.info("pretrained weights of %s:\n%s", path, report.table())
    if "approximate_gelu" not in checkpoint.guessed and checkpoint.info.model.approximate_gelu != approximate_gelu:
        logger.info(
            "note: the pretrained network uses the %s GELU and this run the %s one (disable_approximate_gelu)",
            *(("tanh", "exact") if checkpoint.info.model.approximate_gelu else ("exact", "tanh")),
        )
    return checkpoint


def read_checkpoint(config: Config) -> tuple[Checkpoint, ModelInfo]:
    """Read `pretrained` for evaluation or export; return it with its network, on which file and options agree."""
    path = Path(str(config.pretrained))
    checkpoint = load_pretrained(path, arch=config.arch)
    if config.num_classes == 0:
        config = replace(config, num_classes=checkpoint.info.model.num_classes)
    return checkpoint, agreed_info(checkpoint.info, checkpoint.guessed, describe_model(config, ()), path)


def set_starting_point(
    config: Config,
    parameters: Mapping[str, Parameter],
    state: RunState,
    loaded: Checkpoint | None,
    resumed: ResumePoint | None,
) -> None:
    """Set the run to the place of the loaded file's run, or to `start_epoch`.

    Args:
        parameters: the state of the training step by name, to be overwritten.
        loaded, resumed: see `load_starting_weights`.
    """
    if resumed is not None:
        continue_run(parameters, state, resumed.checkpoint, resumed.path)
        if state.epoch == state.epochs:
            logger.info("all %d epochs are done: there is nothing left to train", state.epochs)
    elif loaded is not None and not config.exclude_epoch_state:
        path = Path(str(config.pretrained))
        check_place(state, require_state(loaded, path), path, config.start_epoch)
        continue_run(parameters, state, loaded, path)
    else:
        start_at_epoch(parameters, state, config.start_epoch)


def start_at_epoch(parameters: Mapping[str, Parameter], state: RunState, epoch: int) -> None:
    """Start the run with `epoch` (from 0): its order of images, augmentation and learning rates."""
    state.epoch, state.step = epoch, 0
    parameters[ITERATION].set_data(Tensor(state.iteration, parameters[ITERATION].dtype))


def continue_run(parameters: Mapping[str, Parameter], state: RunState, checkpoint: Checkpoint, path: Path) -> None:
    """Continue the run that wrote `checkpoint`: optimizer, moving average, loss scale, place and history.

    Args:
        parameters: the state of the training step by name, to be overwritten.
        checkpoint: read from `path`, with the state of a training run (see `src.tools.resume.require_state`).

    Raises `UserError`, and changes nothing, if the file has the state of a run with other options.
    """
    training = checkpoint.training or {}
    if training["step"] and training["steps_per_epoch"] != state.steps_per_epoch:
        raise UserError(
            f"{path} was written in the middle of an epoch of {training['steps_per_epoch']} steps, but this run has "
            f"{state.steps_per_epoch} steps per epoch: use the batch size, devices and images of that run"
        )
    stored = {OPTIMIZER_PREFIX + name: array for name, array in (checkpoint.optimizer or {}).items()}
    stored |= {EMA_PREFIX + name: array for name, array in (checkpoint.ema or {}).items()}
    restore(parameters, stored, path)
    state.epoch, state.step = int(training["epoch"]), int(training["step"])
    state.meter = StepMeter.from_json(training["meter"])
    state.history = list(training["history"])
    parameters[ITERATION].set_data(Tensor(state.iteration, parameters[ITERATION].dtype))
    logger.info("continuing %s at epoch %d step %d", path, state.epoch + 1, state.step)


def check_place(state: RunState, checkpoint: Checkpoint, path: Path, start_epoch: int) -> None:
    """Raise `UserError` for a `start_epoch` other than 0 or the checkpoint's epoch, and for a run that has ended."""
    epoch = (checkpoint.training or {})["epoch"]
    if start_epoch not in (0, epoch):
        raise UserError(f"start_epoch is {start_epoch} but {path} continues at epoch {epoch}: leave start_epoch at 0")
    if epoch >= state.epochs:
        raise UserError(f"epochs is {state.epochs} but {path} has completed {epoch}: raise epochs to train on")
