"""The start of a run: weights fitted to the network, or the whole state of an earlier run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.config import Config
from src.errors import UserError
from src.tools.cell import restore
from src.tools.logs import start_logging
from src.tools.resume import ResumePoint, training_state
from src.tools.starting_point import check_place, load_weights, set_starting_point
from src.trainer.loop import RunState
from src.weights.checkpoint import Checkpoint, save_checkpoint
from tests.networks import model_info, variant_network
from tests.weights_golden import get_weights

ARCH = "test_beit_patch8_32"
PATH = Path("run-3_2.ckpt")


def network(num_classes: int = 3, seed: int = 0):
    return variant_network(ARCH, num_classes=num_classes, seed=seed)


def saved(tmp_path: Path, num_classes: int = 3, **changes: object) -> tuple[Path, dict[str, np.ndarray]]:
    weights = get_weights(network(num_classes, seed=5))
    path = tmp_path / "model.ckpt"
    save_checkpoint(path, Checkpoint(weights, model_info(ARCH, 32, num_classes, **changes)))
    return path, weights


def test_a_checkpoint_of_the_same_network_is_loaded_to_the_bit(tmp_path):
    path, weights = saved(tmp_path)
    target = network()
    load_weights(target, path, approximate_gelu=False)
    loaded = get_weights(target)
    assert all(np.array_equal(loaded[name], weights[name]) for name in weights)


def test_a_head_of_another_size_is_left_out_and_reported(tmp_path, capsys):
    start_logging(None, terminal=True)
    path, weights = saved(tmp_path, num_classes=7)
    target = network(num_classes=3)
    before = get_weights(target)
    load_weights(target, path, approximate_gelu=False)
    after = get_weights(target)
    assert np.array_equal(after["head.weight"], before["head.weight"])
    assert np.array_equal(after["fc_norm.weight"], weights["fc_norm.weight"])
    assert np.array_equal(after["blocks.0.attn.qkv.weight"], weights["blocks.0.attn.qkv.weight"])
    printed = capsys.readouterr().out
    assert "left out" in printed
    assert "7 classes in the checkpoint, 3 in the network" in printed


def test_another_kind_of_gelu_is_reported(tmp_path, capsys):
    start_logging(None, terminal=True)
    path, _ = saved(tmp_path, approximate_gelu=True)
    load_weights(network(), path, approximate_gelu=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "disable_approximate_gelu" in line]
    assert line.index("tanh") < line.index("exact")
    logging.getLogger("beit").handlers.clear()


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    path, _ = saved(tmp_path)
    with pytest.raises(UserError, match=r"another architecture.*cls_token"):
        load_weights(variant_network("beit_tiny_patch16_224", num_classes=3), path, approximate_gelu=False)


def state_parameters() -> dict[str, Parameter]:
    return {
        "optimizer.iteration": Parameter(Tensor(np.int32(0)), name="optimizer.iteration"),
        "optimizer.exp_avg.head.bias": Parameter(Tensor(np.zeros(3, np.float32)), name="optimizer.exp_avg.head.bias"),
    }


def stored(epoch: int = 2, step: int = 2, **changes: object) -> ResumePoint:
    state = run_state()
    state.epoch, state.step = epoch, step
    state.history = [{"epoch": number, "top1": 50.0} for number in (1, 2)]
    state.meter.sums, state.meter.finite, state.meter.steps = np.array([1.5]), 2, 2
    values: dict = {
        "weights": {},
        "info": model_info(ARCH, 32, 3),
        "optimizer": {"iteration": np.int32(12), "exp_avg.head.bias": np.arange(3, dtype=np.float32)},
        "training": training_state(state, {}),
    }
    return ResumePoint(PATH, Checkpoint(**(values | changes)))


def run_state(epochs: int = 4, steps_per_epoch: int = 5) -> RunState:
    return RunState(epochs, steps_per_epoch, 8, np.zeros(epochs * steps_per_epoch))


def test_start_epoch_sets_the_epoch_and_the_place_in_the_schedule():
    parameters, state = state_parameters(), run_state()
    set_starting_point(Config(start_epoch=3), parameters, state, None)
    assert (state.epoch, state.step, state.iteration) == (3, 0, 15)
    assert parameters["optimizer.iteration"].asnumpy() == 15


def test_a_run_continues_at_its_step_with_its_optimizer_and_its_history():
    parameters, state = state_parameters(), run_state()
    set_starting_point(Config(), parameters, state, stored())
    assert (state.epoch, state.step) == (2, 2)
    assert parameters["optimizer.iteration"].asnumpy() == 12
    assert parameters["optimizer.exp_avg.head.bias"].asnumpy().tolist() == [0, 1, 2]
    assert [record["epoch"] for record in state.history] == [1, 2]
    assert (state.meter.means.tolist(), state.meter.steps) == ([0.75], 2)


@pytest.mark.parametrize(
    ("continued", "state", "expected"),
    [
        (stored(), run_state(steps_per_epoch=7), ("run-3_2.ckpt", "epoch of 5 steps", "7 steps")),
        (stored(ema={"head.bias": np.zeros(3)}), run_state(), ("only the file has ema.head.bias", "with_ema")),
        (
            stored(optimizer={"iteration": np.int32(12)}),
            run_state(),
            ("only this run has optimizer.exp_avg.head.bias", "optimizer"),
        ),
        (
            stored(optimizer={"iteration": np.int32(12), "exp_avg.head.bias": np.zeros(4)}),
            run_state(),
            ("optimizer.exp_avg.head.bias", "(4,)", "(3,)"),
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(continued, state, expected):
    parameters = state_parameters()
    with pytest.raises(UserError) as error:
        set_starting_point(Config(), parameters, state, continued)
    assert all(part in str(error.value) for part in expected)
    assert parameters["optimizer.iteration"].asnumpy() == 0
    assert (state.epoch, state.step) == (0, 0)


def test_a_run_that_stopped_after_an_epoch_continues_with_epochs_of_another_length():
    parameters, state = state_parameters(), run_state(steps_per_epoch=7)
    set_starting_point(Config(), parameters, state, stored(step=0))
    assert (state.epoch, state.step) == (2, 0)
    assert parameters["optimizer.iteration"].asnumpy() == 14


@pytest.mark.parametrize(
    ("epochs", "start_epoch", "expected"),
    [
        (4, 1, ("start_epoch is 1", "run-3_2.ckpt", "epoch 2", "leave start_epoch at 0")),
        (2, 0, ("epochs is 2", "run-3_2.ckpt", "raise epochs")),
    ],
)
def test_a_start_that_contradicts_the_checkpoint_is_refused(epochs, start_epoch, expected):
    with pytest.raises(UserError) as error:
        check_place(Config(epochs=epochs, start_epoch=start_epoch, warmup_length=0), stored())
    assert all(part in str(error.value) for part in expected)
    check_place(Config(epochs=4, start_epoch=2, warmup_length=0), stored())


@pytest.mark.parametrize("changes", [{"optimizer": None}, {"training": None}, {"training": {"epoch": 2}}])
def test_a_checkpoint_without_the_state_of_a_run_is_refused(changes):
    with pytest.raises(UserError, match=r"run-3_2.ckpt .*no state of a training run.*pretrained, with"):
        stored(**changes)


def test_weights_are_restored_to_the_bit_and_all_or_none():
    target, weights = network(), get_weights(network(seed=5))
    parameters = {parameter.name: parameter for parameter in target.get_parameters()}
    before = get_weights(target)
    with pytest.raises(UserError, match=r"run-3_2.ckpt .*only this run has head.bias"):
        restore(parameters, {name: value for name, value in weights.items() if name != "head.bias"}, PATH)
    assert all(np.array_equal(value, before[name]) for name, value in get_weights(target).items())
    restore(parameters, weights, PATH)
    assert all(np.array_equal(value, weights[name]) for name, value in get_weights(target).items())
