"""The start of a run: initial weights, the weights of a checkpoint, or its whole state."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mindspore import Parameter, Tensor, nn

from src.config import Config, RunConfig
from src.data.assembly import describe_model
from src.errors import UserError
from src.model.model_info import ModelInfo
from src.tools.cell import restore
from src.tools.resume import ResumePoint
from src.trainer.loop import RunState, StepMeter
from src.weights.agreement import agreed_info
from src.weights.checkpoint import EMA_PREFIX, OPTIMIZER_PREFIX, Checkpoint
from src.weights.fit import fit_weights
from src.weights.network_parameters import parameter_shapes, set_weights
from src.weights.pretrained import load_pretrained

logger = logging.getLogger("beit")


def load_starting_weights(config: RunConfig, network: nn.Cell, resumed: ResumePoint | None) -> ResumePoint | None:
    """Load the weights of the resumed run, or those of `pretrained`, into `network`.

    Returns the checkpoint whose run this one continues, if any. Raises `UserError` if it cannot.
    """
    if resumed is not None:
        restore({p.name: p for p in network.get_parameters()}, resumed.checkpoint.weights, resumed.path)
        return resumed
    if config.pretrained is None:
        if not config.exclude_epoch_state:
            raise UserError(
                "exclude_epoch_state is False but pretrained is empty: set pretrained to the file to continue"
            )
        return None
    path = Path(config.pretrained)
    checkpoint = load_weights(network, path, approximate_gelu=not config.disable_approximate_gelu)
    if config.exclude_epoch_state:
        return None
    continued = ResumePoint(path, checkpoint)
    check_place(config, continued)
    return continued


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


def check_place(config: RunConfig, continued: ResumePoint) -> None:
    """Raise `UserError` for a `start_epoch` other than 0 or the checkpoint's epoch, and for a run that has ended."""
    epoch, path = continued.training["epoch"], continued.path
    if config.start_epoch not in (0, epoch):
        raise UserError(
            f"start_epoch is {config.start_epoch} but {path} continues at epoch {epoch}: leave start_epoch at 0"
        )
    if epoch >= config.epochs:
        raise UserError(f"epochs is {config.epochs} but {path} has completed {epoch}: raise epochs to train on")


def set_starting_point(
    config: RunConfig, parameters: Mapping[str, Parameter], state: RunState, continued: ResumePoint | None
) -> None:
    """Set the run to the place where the run of `continued` stopped, or to the beginning of `start_epoch`.

    `parameters`, the state of the training step by name, are overwritten. Raises `UserError`, and changes nothing, if
    the run of `continued` had other options.
    """
    if continued is None:
        state.epoch = config.start_epoch
    else:
        continue_run(parameters, state, continued)
    iteration = parameters["optimizer.iteration"]
    iteration.set_data(Tensor(state.iteration, iteration.dtype))


def continue_run(parameters: Mapping[str, Parameter], state: RunState, continued: ResumePoint) -> None:
    """Take optimizer, moving average, loss scale, place and history from the checkpoint."""
    training, checkpoint, path = continued.training, continued.checkpoint, continued.path
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
    logger.info("continuing %s at epoch %d step %d", path, state.epoch + 1, state.step)
    if state.epoch == state.epochs:
        logger.info("all %d epochs are done: there is nothing left to train", state.epochs)
