"""What a run starts from: initial weights, a checkpoint's weights, or a checkpoint's whole state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn

from src.errors import UserError
from src.tools.resume import restore_record
from src.trainer.loop import RunState
from src.weights.checkpoint import EMA_PREFIX, OPTIMIZER_PREFIX, Checkpoint
from src.weights.fit import fit_weights
from src.weights.network_parameters import parameter_shapes, set_weights
from src.weights.pretrained import load_pretrained

logger = logging.getLogger("beit")

ITERATION = "optimizer.iteration"


def load_weights(network: nn.Cell, path: Path, *, approximate_gelu: bool) -> Checkpoint:
    """Give `network` the weights of the checkpoint `path`, fitted as for fine-tuning, and log what became of each.

    Raises `UserError` for a file that is not a BEiT, or not one of the network's architecture.
    """
    checkpoint = load_pretrained(path)
    fitted, report = fit_weights(checkpoint.weights, parameter_shapes(network), path)
    set_weights(network, fitted)
    logger.info("pretrained weights of %s:\n%s", path, report.table())
    if "approximate_gelu" not in checkpoint.guessed and checkpoint.info.model.approximate_gelu != approximate_gelu:
        logger.info(
            "note: the pretrained network has the %s GELU and this run the %s one (disable_approximate_gelu)",
            *(("tanh", "exact") if checkpoint.info.model.approximate_gelu else ("exact", "tanh")),
        )
    return checkpoint


def start_at_epoch(parameters: Mapping[str, Parameter], state: RunState, epoch: int) -> None:
    """Have the run begin with `epoch` (from 0): its order of images, augmentation and learning rates."""
    state.epoch, state.step = epoch, 0
    parameters[ITERATION].set_data(Tensor(state.iteration, parameters[ITERATION].dtype))


def continue_run(parameters: Mapping[str, Parameter], state: RunState, checkpoint: Checkpoint, path: Path) -> None:
    """Take up the run that wrote `checkpoint` where it stood: optimizer, moving average, loss scale, place and record.

    Args:
        parameters: the training step's state by name, to be overwritten.
        checkpoint: of the file `path`, with the state of a training run (see `src.tools.resume.require_state`).

    Raises `UserError`, and changes nothing, where the file has the state of a run with other options.
    """
    training = checkpoint.training or {}
    if training["step"] and training["steps_per_epoch"] != state.steps_per_epoch:
        raise UserError(
            f"{path} stands in the middle of an epoch of {training['steps_per_epoch']} steps, and this run's have "
            f"{state.steps_per_epoch}: use the batch size, devices and images of the run that wrote it"
        )
    stored = {OPTIMIZER_PREFIX + name: array for name, array in (checkpoint.optimizer or {}).items()}
    stored |= {EMA_PREFIX + name: array for name, array in (checkpoint.ema or {}).items()}
    restore(parameters, stored, path)
    restore_record(state, training)
    parameters[ITERATION].set_data(Tensor(state.iteration, parameters[ITERATION].dtype))
    logger.info("continuing %s at epoch %d step %d", path, state.epoch + 1, state.step)


def check_place(state: RunState, checkpoint: Checkpoint, path: Path, start_epoch: int) -> None:
    """Refuse a `start_epoch` other than 0 or the epoch at which `checkpoint` stands, and a run that has ended."""
    epoch = (checkpoint.training or {})["epoch"]
    if start_epoch not in (0, epoch):
        raise UserError(f"start_epoch is {start_epoch} and {path} stands at epoch {epoch}: leave start_epoch at 0")
    if epoch >= state.epochs:
        raise UserError(f"{path} has all {epoch} epochs behind it: raise epochs, which is {state.epochs}, to train on")


def restore(parameters: Mapping[str, Parameter], stored: Mapping[str, np.ndarray], path: Path) -> None:
    """Overwrite every parameter by what the file `path` has `stored` under its name, or none where the two differ.

    Raises `UserError` where names or shapes differ.
    """
    differing = sorted(set(parameters) ^ set(stored))
    if differing:
        where = "only this run has" if differing[0] in parameters else "only the file has"
        raise UserError(
            f"{path} is of a run with other options: {where} {differing[0]}; optimizer, with_ema, amp_level must agree"
        )
    for name, parameter in parameters.items():
        if tuple(parameter.shape) != stored[name].shape:
            raise UserError(
                f"{path} is of another network: {name} is {stored[name].shape}, here {tuple(parameter.shape)}"
            )
    for name, parameter in parameters.items():
        parameter.set_data(Tensor(stored[name], parameter.dtype))
